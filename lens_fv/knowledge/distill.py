"""Teach a model what it says itself when it has read a definition."""

from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args

from lens_fv.core.artefact import Provenance
from lens_fv.core.choices import Count, checked
from lens_fv.core.files import held
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
from lens_fv.knowledge.teach import teach
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
    until: Count | None = None,
    allow_empty: bool = False,
    progress: bool = False,
) -> WeightDelta:
    """Teach a model about one entity, or about many at once, by distilling its own context (Padmanabhan et al. 2023).

    The teacher is the model that reads the definition before each sentence, the student the same model that reads the
    sentence alone. What the teacher says is worked out once, before the first step; there is one model in memory.

    Args:
        model: is trained in place, and is afterwards what it was.
        entities: with definitions. One that is empty teaches nothing.
        transfer: sentences about them. The settings say how often definitions are added, and how many sentences they share.
        settings: default: `DistillConfig.usual` for so many entities.
        anchors: texts on other things, of which the model is taught, among the sentences, to say what it always said: they
            keep the update from moving what it should not. None: `entity_swapped_anchors`, others in every epoch.
        folder: of checkpoints, to go on from if the run is stopped; None: keep none.
        until: stop behind so many of the settings' epochs, to look at the model on the way; with a folder, to go on from there.
        allow_empty: where no sentence can be used, return an update of nothing instead of raising; for loops over entities.
        progress: draw progress bars.

    Raises:
        LensFVError: no entities or two of one key, a folder of another run or one in which another process works, `until` out
            of range, a loss that is not finite, no sentence that can be used, or what `plain_model` raises. Sentences that
            cannot be used are counted in the delta's `skipped`, each under its reason, and the rest goes on.
    """
    settings = settings or DistillConfig.usual(len(entities))
    check_keys(entities)
    if until is not None and not 1 <= until <= settings.epochs:
        raise LensFVError(f"stop teaching behind {until} epochs: from 1 to {settings.epochs}, as many as the settings have")
    if anchors is None:
        anchors = entity_swapped_anchors(entities, transfer, times=settings.epochs * settings.n_anchors, seed=settings.seed)
    shared = transfer.with_shared(entities, n=settings.n_shared, seed=settings.seed)
    transfer = shared.with_definitions(entities, times=settings.n_definitions)
    skipped: Counter[str] = Counter()
    lessons: list[DistillationExample] = []
    for entity in entities:
        sentences = transfer.sentences.get(entity.key, ())
        if not entity.definition or not sentences:
            skipped["no sentence" if entity.definition else "empty definition"] += 1
            continue
        for sentence in sentences:
            lesson = make_example(model, entity, sentence, where=settings.where)
            if isinstance(lesson, DistillationExample):
                lessons.append(lesson)
            else:
                skipped[lesson] += 1
    if not lessons and not allow_empty:
        raise _nothing_left(model, entities, skipped)
    lessons += _anchored(model, anchors if lessons else ())
    targets = _read(model, lessons, settings, progress)
    return _taught(model, entities, lessons, targets, skipped, settings, "distill", folder, progress, until)


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
    """Fine-tune a model on texts, to compare with: definitions, or the sentences of a transfer set.

    Args:
        model: see `distill`.
        entities: what the texts are about.
        texts: of each entity.
        settings: default: `DistillConfig()`; `where`, `direction`, `temperature`, `n_definitions` and `n_shared` do not count,
            `top_k` for anchors alone.
        anchors: see `distill`; here there are none but these.
        folder: see `distill`.
        allow_empty: see `distill`.
        progress: draw progress bars.

    Raises:
        LensFVError: as many lists of texts as entities are wanted; and see `distill`.
    """
    settings = settings or DistillConfig()
    check_keys(entities)
    if len(texts) != len(entities):
        raise LensFVError(f"fine-tune on texts about {len(entities)} entities: there are texts for {len(texts)}")
    found = [text_example(model, entity.key, text) for entity, each in zip(entities, texts, strict=True) for text in each]
    lessons = [lesson for lesson in found if lesson is not None]
    skipped = Counter({"no sentence": sum(not each for each in texts), "nothing to teach": len(found) - len(lessons)})
    if not lessons and not allow_empty:
        raise _nothing_left(model, entities, skipped)
    plain = replace(settings, direction="forward", temperature=1.0)
    kept = _anchored(model, anchors if lessons else ())
    targets = [*token_targets(lessons), *_read(model, kept, plain, progress)]
    return _taught(model, entities, [*lessons, *kept], targets, skipped, plain, "texts", folder, progress)


def _nothing_left(model: LensModel, entities: Sequence[Entity], skipped: Counter[str]) -> LensFVError:
    about = entities[0].key if len(entities) == 1 else f"{len(entities)} entities"
    why = ", ".join(f"{what}: {n}" for what, n in skipped.items() if n)
    return LensFVError(
        f"teach {model.name} about {about}: no sentence is left to teach ({why}); give definitions, and sentences that mention "
        "the entity before their end"
    )


def _anchored(model: LensModel, anchors: Sequence[str]) -> list[DistillationExample]:
    return [lesson for text in anchors if (lesson := text_example(model, "", text))]


def _read(model: LensModel, lessons: Sequence[DistillationExample], settings: DistillConfig, progress: bool) -> list[Target]:
    """What the model itself says, where it reads definitions."""
    with progress_bar("reading definitions", len(lessons), show=progress) as tick:
        return teacher_targets(
            plain_model(model),
            lessons,
            pad=pad_token(model.tokenizer),
            temperature=settings.temperature,
            top_k=settings.top_k,
            tick=tick,
        )


def _taught(
    model: LensModel,
    entities: Sequence[Entity],
    lessons: Sequence[DistillationExample],
    targets: Sequence[Target],
    skipped: Counter[str],
    settings: DistillConfig,
    method: str,
    folder: str | Path | None,
    progress: bool,
    until: int | None = None,
) -> WeightDelta:
    own = sum(bool(lesson.entity) for lesson in lessons)
    options: dict[str, Any] = {
        **asdict(settings),
        "learning_rate": settings.rate,
        "lessons": own,
        "anchors": len(lessons) - own,
    }
    at = Path(folder) if folder is not None else None
    with held(at, what="teach") if at else nullcontext():
        if at:
            taught = sha256(repr([lesson[1:] for lesson in lessons]).encode()).hexdigest()[:16]
            about = {"model": model.name, "revision": model.revision, "fingerprint": model.fingerprint}
            about |= {"what": method, "sentences": taught, **options}
            check_settings(at / "teach.json", about, may_change=("n_checkpoints", "at_once"))
        change = teach(model, lessons, targets, settings, folder=at, until=until, what=method, progress=progress)
    known = repr([(entity.key, entity.definition) for entity in entities])
    provenance = Provenance.of(
        model,
        task=entities[0].key if len(entities) == 1 else f"{len(entities)} entities",
        task_hash=sha256(known.encode()).hexdigest()[:16],
        prompts=[lesson.teacher for lesson in lessons],
        seed=settings.seed,
        method=method,
        options=options if until is None else options | {"until": until},
    )
    counts = {what: skipped[what] for what in SKIPPED}
    return WeightDelta(provenance=provenance, dense=change.dense, down=change.down, up=change.up, skipped=counts)
