"""Recorded results of the study of knowledge updates."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from lens_fv.core.statistics import Estimate
from lens_fv.knowledge import DistillConfig, KnowledgeScores, gap_closed
from lens_fv.knowledge.scores import Norm
from lens_fv.studies.knowledge.settings import OUTSIDE, OWN, KnowledgeSettings
from lens_fv.studies.page.recorded import RecordedStudy


class Condition(NamedTuple):
    """Results of one condition, pooled over seeds; each entity counts once, with its probes from all seeds.

    Attributes:
        scores: scores on the entities' probes.
        locality: scores on unrelated probes; None where the weights are the base model's.
        drift: mean KL divergence from the base, for each seed.
        seeds: number of seeds.
    """

    scores: KnowledgeScores
    locality: KnowledgeScores | None
    drift: list[Estimate]
    seeds: int


class Recorded(RecordedStudy):
    """Results in one model's folder; its settings are `KnowledgeSettings` and the model."""

    study = "knowledge"

    @property
    def shown(self) -> dict[str, Any]:
        """Settings listed on the page, with only the main ones of each training method."""
        settings = super().shown
        for way, each in settings.pop("ways").items():
            for name, said in zip(("one alone", "several"), each, strict=True):
                rate = DistillConfig(**said).rate
                counted = {"distill": ("n_definitions", "n_shared"), "sentences": ("n_definitions",)}.get(way, ())
                about = {key: said[key] for key in ("update", "rank", "epochs", "batch_size", *counted, "n_anchors")}
                settings[f"{way}, {name}"] = {**about, "learning_rate": rate}
        return settings

    @cached_property
    def sources(self) -> list[str]:
        """Sources of entities that were taught by every method."""
        return [name for name in (OWN, OUTSIDE) if f"{name}/base" in self.part("base")]

    def base(self, source: str, condition: str = "base") -> KnowledgeScores:
        """Return the scores without an update: "base", "definition" or "random_definition"."""
        return KnowledgeScores.of_rows(self.part("base")[f"{source}/{condition}"]["scores"])

    def conditions(self, source: str) -> dict[str, Condition]:
        """Return the results by training method, pooled over seeds."""
        found: dict[str, list[Mapping[str, Any]]] = {}
        for key, record in self.part("ways").items():
            of, _, way = key.split("/")
            if of == source:
                found.setdefault(way, []).append(record)
        return {way: pooled(records) for way, records in found.items()}

    @property
    def numbers(self) -> dict[tuple[int, str], Condition]:
        """Results by number of entities at once and method, for the first seed; empty if that part was not run."""
        first, entities_per_update = self.settings["seeds"][0], self.settings["entities_per_update"]
        found = {tuple(key.split("/")): record for key, record in self.part("numbers").items()}
        for way in self.settings["ways"] if found else ():
            if f"{OWN}/{first}/{way}" in self.part("ways"):
                found[str(entities_per_update), way] = self.part("ways")[f"{OWN}/{first}/{way}"]
        order = sorted(found, key=lambda each: (int(each[0]), list(self.settings["ways"]).index(each[1])))
        return {(int(n), way): pooled([found[n, way]]) for n, way in order}

    def everything(self, condition: str) -> KnowledgeScores:
        """Return the scores of a condition for all entities, including those only taught in the largest updates."""
        found = self.part("base").items()
        return KnowledgeScores.of_rows([row for key, r in found if key.endswith(f"/{condition}") for row in r["scores"]])

    @property
    def unrelated(self) -> KnowledgeScores:
        """Scores on the unrelated probes without an update."""
        return KnowledgeScores.of_rows(self.part("base")[f"{self.sources[0]}/base"]["locality"])

    @property
    def command(self) -> str | None:
        """Command that reproduces the run, or None if its options cannot express the settings."""
        s = self.settings
        for quick in (False, True):
            given = KnowledgeSettings.chosen(
                quick=quick, outside=s["outside"], first_seed=s["seeds"][0], n_seeds=len(s["seeds"])
            )
            if {"model": s["model"], "revision": s["revision"], **given.said} == s:
                words = [f"lens-fv reproduce knowledge --model {s['model']}", *["--quick"] * quick]
                words += ["--outside FILE"] * bool(s["outside"])
                return " ".join([*words, f"--seeds {len(s['seeds'])} --seed {s['seeds'][0]}"])
        return None


def pooled(records: Sequence[Mapping[str, Any]]) -> Condition:
    """Pool the records of one method over seeds or groups of entities."""
    locality = [row for record in records for row in record["locality"] or ()]
    scores = KnowledgeScores.of_rows([row for record in records for row in record["scores"]])
    return Condition(
        scores,
        KnowledgeScores.of_rows(locality) if locality else None,
        [Estimate(*record["drift"].values()) for record in records if record["drift"]],
        len(records),
    )


def closed(base: KnowledgeScores, updated: KnowledgeScores, read: KnowledgeScores, *, of: Any, norm: Norm = "mean") -> Any:
    """Compute `gap_closed` on the entities that the update is about, which may be a subset."""
    asked = set(updated.entities)

    def some(scores: KnowledgeScores) -> KnowledgeScores:
        return KnowledgeScores.of_rows([row for row in scores.rows() if row["entity"] in asked])

    return gap_closed(some(base), updated, some(read), of=of, norm=norm)
