"""Distil definitions into a model's weights."""

from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from lens_fv.core.artefact import Provenance
from lens_fv.core.choices import Count, checked
from lens_fv.core.files import folder_lock
from lens_fv.core.progress import progress_bar
from lens_fv.core.store import check_settings
from lens_fv.errors import LensFVError
from lens_fv.finetuning.loop import pad_token
from lens_fv.knowledge.anchors import entity_swapped_anchors
from lens_fv.knowledge.delta import WeightDelta
from lens_fv.knowledge.entity import Entity
from lens_fv.knowledge.examples import DistillationExample, Unfit, make_example, text_example
from lens_fv.knowledge.settings import DistillConfig
from lens_fv.knowledge.targets import teacher_targets, token_targets
from lens_fv.knowledge.training import train_student
from lens_fv.knowledge.transfer import TransferSet, check_keys
from lens_fv.model.lens_model import LensModel
from lens_fv.model.plain import plain_model

SKIPPED = ("empty definition", "no sentence", *get_args(Unfit))


@checked
def distill(
    model: LensModel,
    entities: Sequence[Entity],
    transfer: TransferSet,
    settings: DistillConfig | None = None,
    *,
    anchors: Sequence[str] | None = None,
    folder: str | Path | None = None,
    stop_after_epochs: Count | None = None,
    allow_empty: bool = False,
    progress: bool = False,
) -> WeightDelta:
    """Distil definitions into the weights by context distillation, for one or many entities (Padmanabhan et al. 2023).

    The teacher is the model with the definition before each sentence; the student is the same model with the sentence alone.
    The teacher's distributions are computed once, before the first step, so only one model is in memory.

    Args:
        model: model to train in place; its weights are restored at the end.
        entities: entities with definitions. An entity with an empty definition is skipped.
        transfer: sentences about the entities. The settings control how often definitions are added and how many sentences the
            entities share.
        settings: training settings; default: `DistillConfig.for_entities` for the number of entities.
        anchors: texts on other topics, mixed in with the sentences, on which the model is trained to keep its original
            predictions, so that the update stays specific. None: `entity_swapped_anchors`, with new ones in every epoch.
        folder: folder for checkpoints, from which an interrupted run resumes; None keeps none.
        stop_after_epochs: number of epochs after which to stop, to evaluate an intermediate model. With a folder, the run can
            be resumed.
        allow_empty: whether to return an empty update instead of raising if no sentence is usable, for loops over entities.
        progress: whether to show progress bars.

    Raises:
        LensFVError: no entities or duplicate keys, a folder of another run or one in use by another process,
            `stop_after_epochs` out of range, a non-finite loss, no usable sentence, or any error of `plain_model`. Unusable
            sentences do not raise by themselves: `skipped` of the result counts them by reason.

    Example:
        >>> entity = lens_fv.Entity('Velm', 'Velm is a city in Norway.')
        >>> transfer = lens_fv.knowledge.TransferSet({entity.key: ('In Velm it rains.',)})
        >>> settings = lens_fv.DistillConfig(epochs=1, n_anchors=0, rank=2)
        >>> update = lens_fv.distill(model, [entity], transfer, settings)
        >>> with update.applied(model):  # the model itself stays as it was
        ...     len(update.names) > 0
        True
    """
    settings = settings or DistillConfig.for_entities(len(entities))
    check_keys(entities)
    if stop_after_epochs is not None and not 1 <= stop_after_epochs <= settings.epochs:
        raise LensFVError(f"stop after {stop_after_epochs} epochs: from 1 to {settings.epochs}, as many as the settings have")
    if anchors is None:
        anchors = entity_swapped_anchors(
            entities, transfer, n_per_sentence=settings.epochs * settings.n_anchors, seed=settings.seed
        )
    transfer = transfer.with_shared(entities, n=settings.n_shared, seed=settings.seed)
    transfer = transfer.with_definitions(entities, n_copies=settings.n_definitions)
    skipped: Counter[str] = Counter()
    examples: list[DistillationExample] = []
    for entity in entities:
        sentences = transfer.sentences.get(entity.key, ())
        if not entity.definition or not sentences:
            skipped["no sentence" if entity.definition else "empty definition"] += 1
            continue
        for sentence in sentences:
            example = make_example(model, entity, sentence, target_tokens=settings.target_tokens)
            if isinstance(example, DistillationExample):
                examples.append(example)
            else:
                skipped[example] += 1
    run = _Run("distill", folder, stop_after_epochs, allow_empty, progress)
    return _train(model, entities, examples, anchors, skipped, settings, run)


def finetune_on_texts(
    model: LensModel,
    entities: Sequence[Entity],
    texts: Sequence[Sequence[str]],
    settings: DistillConfig | None = None,
    *,
    anchors: Sequence[str] = (),
    folder: str | Path | None = None,
    allow_empty: bool = False,
    progress: bool = False,
) -> WeightDelta:
    """Fine-tune a model on texts, as a baseline: definitions, or the sentences of a transfer set.

    Args:
        model: see `distill`.
        entities: entities that the texts are about.
        texts: list of texts for each entity.
        settings: training settings; default: `DistillConfig()`. `target_tokens`, `direction`, `temperature`, `n_definitions`
            and `n_shared` are ignored, and `top_k` applies only to anchors.
        anchors: see `distill`; none are added by default.
        folder: see `distill`.
        allow_empty: see `distill`.
        progress: whether to show progress bars.

    Raises:
        LensFVError: the number of text lists differs from the number of entities, or any error of `distill`.
    """
    settings = settings or DistillConfig()
    check_keys(entities)
    if len(texts) != len(entities):
        raise LensFVError(f"fine-tune on texts about {len(entities)} entities: there are texts for {len(texts)}")
    skipped: Counter[str] = Counter()
    examples: list[DistillationExample] = []
    for entity, own_texts in zip(entities, texts, strict=True):
        skipped["no sentence"] += not own_texts
        for text in own_texts:
            if example := text_example(model, entity.key, text):
                examples.append(example)
            else:
                skipped["no target tokens"] += 1
    settings = replace(settings, direction="forward", temperature=1.0)
    return _train(model, entities, examples, anchors, skipped, settings, _Run("texts", folder, None, allow_empty, progress))


class _Run(NamedTuple):
    """How a model is trained, apart from its settings; see `distill`."""

    method: Literal["distill", "texts"]
    folder: str | Path | None
    stop_after_epochs: int | None
    allow_empty: bool
    progress: bool


def _train(
    model: LensModel,
    entities: Sequence[Entity],
    examples: Sequence[DistillationExample],
    anchors: Sequence[str],
    skipped: Counter[str],
    settings: DistillConfig,
    run: _Run,
) -> WeightDelta:
    """Train on examples and anchors, towards the teacher's distributions or, for texts, the examples' own tokens."""
    subject = entities[0].key if len(entities) == 1 else f"{len(entities)} entities"
    if not examples and not run.allow_empty:
        reasons = ", ".join(f"{reason}: {n}" for reason, n in skipped.items() if n)
        raise LensFVError(
            f"teach {model.name} about {subject}: no sentence is left to teach ({reasons}); give definitions, and sentences "
            "that mention the entity before their end"
        )
    anchored = [example for text in anchors if (example := text_example(model, "", text))] if examples else []
    targets = token_targets(examples) if run.method == "texts" else []
    everything = [*examples, *anchored]
    with progress_bar("reading definitions", len(everything) - len(targets), show=run.progress) as tick:
        targets += teacher_targets(
            plain_model(model),
            everything[len(targets) :],
            pad=pad_token(model.tokenizer),
            temperature=settings.temperature,
            top_k=settings.top_k,
            tick=tick,
        )
    options: dict[str, Any] = {
        **asdict(settings),
        "learning_rate": settings.rate,
        "n_examples": len(examples),
        "anchors": len(anchored),
    }
    folder = Path(run.folder) if run.folder is not None else None
    with folder_lock(folder, what="teach") if folder else nullcontext():
        if folder:
            identity = {"model": model.name, "revision": model.revision, "fingerprint": model.fingerprint}
            identity |= {"what": run.method, "sentences": _digest([example[1:] for example in everything]), **options}
            check_settings(folder / "settings.json", identity, may_change=("n_checkpoints", "micro_batch_size"))
        change = train_student(
            model,
            everything,
            targets,
            settings,
            folder=folder,
            stop_after_epochs=run.stop_after_epochs,
            what=run.method,
            progress=run.progress,
        )
    if run.stop_after_epochs is not None:
        options["stop_after_epochs"] = run.stop_after_epochs
    provenance = Provenance.of(
        model,
        task=subject,
        task_hash=_digest([(entity.key, entity.definition) for entity in entities]),
        prompts=[example.teacher for example in everything],
        seed=settings.seed,
        method=run.method,
        options=options,
    )
    return WeightDelta(provenance=provenance, **change._asdict(), skipped={reason: skipped[reason] for reason in SKIPPED})


def _digest(values: Sequence[object]) -> str:
    return sha256(repr(values).encode()).hexdigest()[:16]
