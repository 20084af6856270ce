"""Distil definitions into a model's weights."""

from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args

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
from lens_fv.knowledge.targets import Target, teacher_targets, token_targets
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
    shared = transfer.with_shared(entities, n=settings.n_shared, seed=settings.seed)
    transfer = shared.with_definitions(entities, n_copies=settings.n_definitions)
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
    if not examples and not allow_empty:
        raise _nothing_left(model, entities, skipped)
    examples += _anchored(model, anchors if examples else ())
    targets = _read(model, examples, settings, progress)
    return _taught(model, entities, examples, targets, skipped, settings, "distill", folder, progress, stop_after_epochs)


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
    found = [text_example(model, entity.key, text) for entity, each in zip(entities, texts, strict=True) for text in each]
    examples = [example for example in found if example is not None]
    skipped = Counter({"no sentence": sum(not each for each in texts), "no target tokens": len(found) - len(examples)})
    if not examples and not allow_empty:
        raise _nothing_left(model, entities, skipped)
    plain = replace(settings, direction="forward", temperature=1.0)
    kept = _anchored(model, anchors if examples else ())
    targets = [*token_targets(examples), *_read(model, kept, plain, progress)]
    return _taught(model, entities, [*examples, *kept], targets, skipped, plain, "texts", folder, progress)


def _nothing_left(model: LensModel, entities: Sequence[Entity], skipped: Counter[str]) -> LensFVError:
    about = entities[0].key if len(entities) == 1 else f"{len(entities)} entities"
    why = ", ".join(f"{what}: {n}" for what, n in skipped.items() if n)
    return LensFVError(
        f"teach {model.name} about {about}: no sentence is left to teach ({why}); give definitions, and sentences that mention "
        "the entity before their end"
    )


def _anchored(model: LensModel, anchors: Sequence[str]) -> list[DistillationExample]:
    return [example for text in anchors if (example := text_example(model, "", text))]


def _read(model: LensModel, examples: Sequence[DistillationExample], settings: DistillConfig, progress: bool) -> list[Target]:
    """Compute the model's own distributions, with the definitions in context except for anchors."""
    with progress_bar("reading definitions", len(examples), show=progress) as tick:
        return teacher_targets(
            plain_model(model),
            examples,
            pad=pad_token(model.tokenizer),
            temperature=settings.temperature,
            top_k=settings.top_k,
            tick=tick,
        )


def _taught(
    model: LensModel,
    entities: Sequence[Entity],
    examples: Sequence[DistillationExample],
    targets: Sequence[Target],
    skipped: Counter[str],
    settings: DistillConfig,
    method: str,
    folder: str | Path | None,
    progress: bool,
    stop_after_epochs: int | None = None,
) -> WeightDelta:
    own = sum(bool(example.entity) for example in examples)
    options: dict[str, Any] = {
        **asdict(settings),
        "learning_rate": settings.rate,
        "n_examples": own,
        "anchors": len(examples) - own,
    }
    at = Path(folder) if folder is not None else None
    with folder_lock(at, what="teach") if at else nullcontext():
        if at:
            taught = sha256(repr([example[1:] for example in examples]).encode()).hexdigest()[:16]
            about = {"model": model.name, "revision": model.revision, "fingerprint": model.fingerprint}
            about |= {"what": method, "sentences": taught, **options}
            check_settings(at / "settings.json", about, may_change=("n_checkpoints", "micro_batch_size"))
        change = train_student(
            model, examples, targets, settings, folder=at, stop_after_epochs=stop_after_epochs, what=method, progress=progress
        )
    known = repr([(entity.key, entity.definition) for entity in entities])
    provenance = Provenance.of(
        model,
        task=entities[0].key if len(entities) == 1 else f"{len(entities)} entities",
        task_hash=sha256(known.encode()).hexdigest()[:16],
        prompts=[example.teacher for example in examples],
        seed=settings.seed,
        method=method,
        options=options if stop_after_epochs is None else options | {"stop_after_epochs": stop_after_epochs},
    )
    counts = {what: skipped[what] for what in SKIPPED}
    return WeightDelta(provenance=provenance, dense=change.dense, down=change.down, up=change.up, skipped=counts)
