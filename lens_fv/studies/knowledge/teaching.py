"""Knowledge without updates, with definitions in context, and after teaching one or several entities."""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from lens_fv.core.progress import progress_bar
from lens_fv.core.statistics import estimate
from lens_fv.core.store import ResultStore
from lens_fv.knowledge import Entity, KnowledgeResult, TransferSet, WeightDelta, evaluate_knowledge, evaluate_update
from lens_fv.studies.knowledge.settings import OWN, Study
from lens_fv.studies.knowledge.ways import CONTROLS, COUNTED, Teacher, distilled, teachers


def measure_base(study: Study) -> None:
    """Measure every source without any update, with one record per condition."""
    records = study.records("base")
    for source, entities in study.everything.items():
        if entities and f"{source}/base" not in records:
            for result in evaluate_knowledge(study.model, entities, {}, locality=study.locality, progress=study.progress):
                records.get_or_compute(f"{source}/{result.condition}", partial(said, result))


def compare_ways(study: Study) -> None:
    """Teach each source's entities in groups by every method, with one record per source, seed and method."""
    records, s = study.records("ways"), study.settings
    asked = [(source, seed, way) for seed in s.seeds for source in study.sources for way in s.ways]
    asked += [(OWN, s.seeds[0], way) for way in CONTROLS]
    with progress_bar("ways to teach", len(asked), show=study.progress) as tick:
        for source, seed, way in asked:
            known, transfer = study.sources[source], study.sentences(source, seed)
            teach = teachers(study, known, transfer, seed)[way]
            groups = [known[i : i + s.entities_per_update] for i in range(0, len(known), s.entities_per_update)]
            if (source, seed, way) == (OWN, s.seeds[0], "distill"):
                teach = partial(_first_kept, study, teach)
            _record(study, records, f"{source}/{seed}/{way}", teach, groups)
            tick()


def count_entities(study: Study) -> None:
    """Teach one entity and growing numbers of entities with the first seed, with one record per number and method.

    Several entities at once are taught only by the methods in `COUNTED`.
    """
    records, s, everything = study.records("numbers"), study.settings, [e for es in study.everything.values() for e in es]
    transfer = merged([study.sentences(source, s.seeds[0]) for source, entities in study.everything.items() if entities])
    ways = teachers(study, everything, transfer, s.seeds[0])
    possible = [n for n in s.numbers if n <= len(everything)]
    asked = [(n, way) for n in possible for way in s.ways if n == 1 or way in COUNTED]
    with progress_bar("numbers of entities", len(asked), show=study.progress) as tick:
        for n, way in asked:
            groups = [[each] for each in study.sources[OWN]] if n == 1 else [everything[:n]]
            _record(study, records, f"{n}/{way}", ways[way], groups)
            tick()


def first_update(study: Study, epochs: int) -> WeightDelta:
    """Load the first distillation of several own entities, as it is after a number of epochs.

    On the first call it is computed and saved for all measured epochs as FOLDER/updates/EPOCHS.safetensors.
    """
    seed, folder = study.settings.seeds[0], study.folder / "updates"
    for n in study.settings.looked_at:
        if not (folder / f"{n}.safetensors").is_file():
            delta = distilled(study, study.first_few, study.sentences(OWN, seed), seed, folder / "unfinished", until=n)
            delta.save(folder / f"{n}.safetensors")
    shutil.rmtree(folder / "unfinished", ignore_errors=True)
    return WeightDelta.load(folder / f"{epochs}.safetensors")


def merged(sets: Sequence[TransferSet]) -> TransferSet:
    """Merge several transfer sets into one."""
    return TransferSet({key: texts for each in sets for key, texts in each.sentences.items()})


def said(result: KnowledgeResult) -> dict[str, Any]:
    """Convert a result to JSON-compatible values."""
    return {
        "scores": result.scores.rows(),
        "locality": result.locality.rows() if result.locality else None,
        "drift": result.kl_to_base._asdict() if result.kl_to_base else None,
    }


def _first_kept(study: Study, teach: Teacher, entities: Sequence[Entity], folder: Path | None) -> WeightDelta:
    """Load the first update, computing and saving it if necessary, or teach the entities of another one."""
    first = tuple(entities) == study.first_few
    return first_update(study, study.settings.ways["distill"][1].epochs) if first else teach(entities, folder)


def _record(study: Study, records: ResultStore, key: str, teach: Teacher, groups: Sequence[Sequence[Entity]]) -> None:
    """Teach each group of entities by a separate update and record the results.

    An interrupted run resumes with the next group, and within an update of several entities from its last checkpoint. Updates
    of a single entity are each evaluated on a different subset of the unrelated entities.
    """
    unfinished, step = study.folder / "unfinished" / key.replace("/", "-"), study.settings.elsewhere_step

    def known(i: int) -> dict[str, Any]:
        alone = len(groups[i]) == 1
        delta = teach(groups[i], None if alone else unfinished / str(i))
        things = study.locality[i % step :: step] if alone else study.locality
        result = evaluate_update(study.model, groups[i], delta, locality=things)
        return said(result) | {"skipped": dict(delta.skipped)}

    def all_known() -> dict[str, Any]:
        kept = ResultStore(unfinished / "known.json")
        found = [kept.get_or_compute(str(i), partial(known, i)) for i in range(len(groups))]
        drift = [each["drift"]["mean"] for each in found]
        return {
            "scores": [row for each in found for row in each["scores"]],
            "locality": [row for each in found for row in each["locality"]],
            "drift": estimate(drift)._asdict() if len(drift) > 1 else found[0]["drift"],
            "skipped": {what: sum(each["skipped"][what] for each in found) for what in found[0]["skipped"]},
        }

    records.get_or_compute(key, all_known)
    shutil.rmtree(unfinished, ignore_errors=True)
    with suppress(OSError):  # not empty, or never created
        unfinished.parent.rmdir()
