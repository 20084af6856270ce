"""What the model knows without and with definitions, and after it was taught about one entity or about many at once."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lens_fv.knowledge import (
    Entity,
    KnowledgeResult,
    TeachSettings,
    TransferSet,
    WeightDelta,
    distill,
    evaluate_knowledge,
    evaluate_update,
    said_of_others,
)
from lens_fv.progress import progress_bar
from lens_fv.records import Records
from lens_fv.statistics import estimate
from lens_fv.studies.knowledge.settings import OWN, Study
from lens_fv.studies.knowledge.ways import CONTROLS, EVERYWHERE, teachers

CHECKPOINTS = 2
"""Of a distillation of many, to go on from: in the middle and at the end."""


def measure_base(study: Study) -> None:
    """Every source without any update: a record is a condition."""
    records = study.records("base")
    for source, entities in study.everything.items():
        if entities and f"{source}/base" not in records:
            for result in evaluate_knowledge(study.model, entities, {}, elsewhere=study.elsewhere, progress=study.progress):
                records.once(f"{source}/{result.condition}", partial(said, result))


def compare_ways(study: Study) -> None:
    """Teach every entity alone, in every way: a record is a source, a seed and a way, with all its entities."""
    records, s = study.records("ways"), study.settings
    asked = [(source, seed, way) for seed in s.seeds for source in study.sources for way in EVERYWHERE]
    asked += [(OWN, s.seeds[0], way) for way in CONTROLS]
    with progress_bar("ways to teach", sum(len(study.sources[source]) for source, *_ in asked), show=study.progress) as tick:
        for source, seed, way in asked:
            records.once(f"{source}/{seed}/{way}", partial(_one_by_one, study, source, seed, way))
            (_unfinished(study) / f"{source}-{seed}-{way}.json").unlink(missing_ok=True)
            _clear(study)
            for _ in study.sources[source]:
                tick()


def _one_by_one(study: Study, source: str, seed: int, way: str) -> dict[str, Any]:
    """What is known of each entity with an update of its own, and of some of what no update should touch."""
    entities, transfer = study.sources[source], study.sentences(source, seed)
    teach = teachers(study, entities, transfer, seed)[way]
    kept, step = Records(_unfinished(study) / f"{source}-{seed}-{way}.json"), study.settings.elsewhere_step

    def known(i: int) -> dict[str, Any]:
        things = study.elsewhere[i % step :: step]
        delta = teach(i)
        return said(evaluate_update(study.model, [entities[i]], delta, elsewhere=things)) | {"skipped": dict(delta.skipped)}

    found = [kept.once(each.key, partial(known, i)) for i, each in enumerate(entities)]
    return {
        "scores": [row for each in found for row in each["scores"]],
        "elsewhere": [row for each in found for row in each["elsewhere"]],
        "drift": estimate([each["drift"]["mean"] for each in found])._asdict(),
        "skipped": {what: sum(each["skipped"][what] for each in found) for what in found[0]["skipped"]},
    }


def count_entities(study: Study) -> None:
    """Distil more and more entities at once, with the first seed: a record is one update."""
    records, s, everything = study.records("numbers"), study.settings, [e for es in study.everything.values() for e in es]
    groups: list[tuple[str, tuple[Entity, ...]]] = []
    for n in s.numbers:
        most = s.few if n == s.numbers[0] else 1
        groups += [(f"{n}/{i}", tuple(everything[i * n : (i + 1) * n])) for i in range(most) if (i + 1) * n <= len(everything)]
    transfer = merged([study.sentences(source, s.seeds[0]) for source, entities in study.everything.items() if entities])
    with progress_bar("numbers of entities", len(groups), show=study.progress) as tick:
        for name, entities in groups:
            first = entities == study.first_few
            teach = partial(_last_first, study) if first else partial(together, study, entities, transfer)
            _record(study, records, name, entities, teach)
            tick()


def first_update(study: Study, epochs: int) -> WeightDelta:
    """The update of the first few of the study's own entities at once, as it is behind so many epochs.

    Made once, with all others that are looked at on its way, and kept: FOLDER/updates/EPOCHS.safetensors.
    """
    folder = study.folder / "updates"
    for n in study.settings.looked_at:
        if not (folder / f"{n}.safetensors").is_file():
            transfer = study.sentences(OWN, study.settings.seeds[0])
            delta = together(study, study.first_few, transfer, folder / "unfinished", until=n)
            delta.save(folder / f"{n}.safetensors")
    shutil.rmtree(folder / "unfinished", ignore_errors=True)
    return WeightDelta.load(folder / f"{epochs}.safetensors")


def _last_first(study: Study, _: Path) -> WeightDelta:
    return first_update(study, study.settings.together.epochs)


def together(
    study: Study, entities: Sequence[Entity], transfer: TransferSet, folder: Path, *, until: int | None = None
) -> WeightDelta:
    """Distil several entities at once, with the first seed; what is stopped goes on from the folder.

    Args:
        study: the study.
        entities: what is taught.
        transfer: sentences about them.
        folder: of checkpoints.
        until: see `distill`.
    """
    s = study.settings
    settings: TeachSettings = replace(s.together, seed=s.seeds[0], n_checkpoints=CHECKPOINTS)
    anchors = said_of_others(entities, transfer, times=settings.epochs * settings.n_anchors, seed=settings.seed)
    whole, progress = transfer.with_definitions(entities, times=s.n_definitions), study.progress
    return distill(study.model, entities, whole, settings, anchors=anchors, folder=folder, until=until, progress=progress)


def merged(sets: Sequence[TransferSet]) -> TransferSet:
    """All sentences of several sets."""
    return TransferSet({key: texts for each in sets for key, texts in each.sentences.items()})


def said(result: KnowledgeResult) -> dict[str, Any]:
    """A result as JSON has it."""
    return {
        "scores": result.scores.rows(),
        "elsewhere": result.elsewhere.rows() if result.elsewhere else None,
        "drift": result.drift._asdict() if result.drift else None,
    }


def _record(study: Study, records: Records, key: str, entities: Sequence[Entity], teach: Callable[[Path], WeightDelta]) -> None:
    """Teach, and write down what is known then. What is stopped before that goes on from a folder of its own."""
    folder = _unfinished(study) / key.replace("/", "-")

    def known() -> Mapping[str, Any]:
        delta = teach(folder)
        result = evaluate_update(study.model, entities, delta, elsewhere=study.elsewhere)
        return said(result) | {"skipped": dict(delta.skipped)}

    records.once(key, known)
    shutil.rmtree(folder, ignore_errors=True)
    _clear(study)


def _unfinished(study: Study) -> Path:
    return study.folder / "unfinished"


def _clear(study: Study) -> None:
    with suppress(OSError):  # others are in it, or it was not needed
        _unfinished(study).rmdir()
