"""How much the study does, and where it keeps what it has so far."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lens_fv.core.store import ResultStore, check_settings
from lens_fv.knowledge import DistillConfig, Entity, TransferSet, generate_transfer_set, load_entities
from lens_fv.model.lens_model import LensModel
from lens_fv.studies.parts import note_versions

OWN, OUTSIDE, MORE = "own", "outside", "more"
CHOSEN_BY = 2
"""The first of the entities that settings were chosen by."""
WAYS: Mapping[str, tuple[DistillConfig, DistillConfig]] = {
    "distill": (DistillConfig.usual(1), DistillConfig.usual(2)),
    "definition": (
        DistillConfig(epochs=20, learning_rate=2e-3, batch_size=1, n_anchors=1),
        DistillConfig(epochs=15, n_anchors=1),
    ),
    "definition_gently": (
        DistillConfig(epochs=14, learning_rate=1e-3, batch_size=1, n_anchors=1),
        DistillConfig(epochs=15, learning_rate=2e-4, n_anchors=1),
    ),
    "sentences": (DistillConfig.usual(1), DistillConfig.usual(2)),
}
"""How one entity alone is taught, and how several are, by each way: chosen on ten entities that are not reported on.

Sentences are taught as they are distilled.
"""


@dataclass(frozen=True)
class KnowledgeSettings:
    """What is run.

    Attributes:
        seeds: of sentences, their order and draws. What is compared with everything has all of them, the rest the first.
        entities, elsewhere: what is taught, and what should not be touched; see `load_entities`.
        outside: a file of other entities, such as Entity Inferences.
        most_outside: of these, so many are taught in every way; more of them are there to be taught at once.
        every: each so manieth entity was there to choose settings by; only the others are reported on.
        keep_every: of those, each so manieth is.
        n_sentences: that the model writes about each entity.
        n_alone: of its sentences one alone is taught.
        ways: to teach, by name: how one entity alone is taught, and how several at once; see `teachers`.
        at_once: entities of an update in what is compared in all ways; the inside of the model is looked at with the first one.
        numbers: of entities taught at once, to compare.
        elsewhere_step: an update of one entity is measured on every so manieth of what should not be touched, in turn.
        n_traced: entities whose probes are traced.
        tasks: of other things, whose instruction vectors, of `n_heads` heads, are followed behind `n_shots` demonstrations.
        moments: epochs behind which the first update is looked at; its last one is added.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    entities: str = "invented"
    elsewhere: str = "popular"
    outside: str | None = None
    most_outside: int = 20
    every: int = 5
    keep_every: int = 1
    n_sentences: int = 10
    n_alone: int = 5
    ways: Mapping[str, tuple[DistillConfig, DistillConfig]] = field(default_factory=lambda: dict(WAYS))
    at_once: int = 10
    numbers: tuple[int, ...] = (1, 40, 150)
    elsewhere_step: int = 6
    n_traced: int = 10
    tasks: tuple[str, ...] = ("present-past", "country-capital", "antonym")
    n_heads: int = 10
    n_shots: int = 5
    moments: tuple[int, ...] = (1, 2)

    @property
    def said(self) -> dict[str, Any]:
        """As JSON has it."""
        return json.loads(json.dumps(asdict(self)))

    @property
    def looked_at(self) -> list[int]:
        """The moments, the last one among them."""
        return sorted({*(n for n in self.moments if n < self.ways["distill"][1].epochs), self.ways["distill"][1].epochs})

    @classmethod
    def chosen(
        cls,
        *,
        quick: bool = False,
        outside: str | None = None,
        first_seed: int = 0,
        n_seeds: int | None = None,
    ) -> "KnowledgeSettings":
        """The settings, chosen by a few things.

        Args:
            quick: for a first look: one seed, every fifth of the entities that are reported on, few sentences.
            outside: see above.
            first_seed: the others count on from it.
            n_seeds: default: three, or one.
        """
        seeds = tuple(range(first_seed, first_seed + (n_seeds or (1 if quick else 3))))
        if not quick:
            return cls(seeds=seeds, outside=outside)
        return cls(
            seeds=seeds,
            outside=outside,
            most_outside=5,
            keep_every=5,
            n_sentences=4,
            n_alone=4,
            at_once=4,
            numbers=(1, 8),
            n_traced=2,
            tasks=("present-past", "country-capital"),
            moments=(1,),
        )


class Study:
    """One model's run, in a folder of its own.

    Args:
        model: the model.
        folder: where sentences, updates and records are kept. What is there is not made again.
        settings: what is run. More seeds may follow those that the folder was run with.
        progress: draw progress bars.

    Raises:
        LensFVError: the folder holds a run of other settings, of another model or of weights of another type, or `outside` is
            no file of entities.
    """

    def __init__(self, model: LensModel, folder: str | Path, settings: KnowledgeSettings, *, progress: bool = False) -> None:
        self.model, self.folder, self.settings, self.progress = model, Path(folder), settings, progress
        about = {"model": model.name, "revision": model.revision, "fingerprint": model.fingerprint, **settings.said}
        about["outside"] = settings.outside and Path(settings.outside).name  # wherever it lies
        check_settings(self.folder / "study.json", about, may_grow="seeds")
        note_versions(self.folder, model.dtype)

    def records(self, part: str) -> ResultStore:
        """What a part of the study has so far."""
        return ResultStore(self.folder / f"{part}.json")

    @cached_property
    def sources(self) -> dict[str, tuple[Entity, ...]]:
        """Entities that are reported on."""
        s = self.settings
        reported = [each for i, each in enumerate(load_entities(s.entities)) if i % s.every != CHOSEN_BY]
        found = {OWN: tuple(reported[:: s.keep_every])}
        return found | ({OUTSIDE: self._outside[: s.most_outside]} if s.outside else {})

    @property
    def first_few(self) -> tuple[Entity, ...]:
        """Entities of the first update of several."""
        return self.sources[OWN][: self.settings.at_once]

    @cached_property
    def everything(self) -> dict[str, tuple[Entity, ...]]:
        """These, and as many more from outside as the largest number of entities at once asks for."""
        s, n = self.settings, sum(map(len, self.sources.values()))
        return self.sources | ({MORE: self._outside[s.most_outside :][: max(s.numbers) - n]} if n < max(s.numbers) else {})

    @cached_property
    def _outside(self) -> tuple[Entity, ...]:
        return load_entities(self.settings.outside, by="row") if self.settings.outside else ()

    @cached_property
    def chosen_by(self) -> tuple[Entity, ...]:
        """Entities by which settings are chosen."""
        return load_entities(self.settings.entities)[CHOSEN_BY :: self.settings.every]

    @cached_property
    def elsewhere(self) -> tuple[Entity, ...]:
        """What no update should touch."""
        return load_entities(self.settings.elsewhere)

    def sentences(self, source: str, seed: int) -> TransferSet:
        """What the model writes about a source's entities; kept."""
        path = self.folder / f"sentences-{source}-{seed}.json"
        n, entities = self.settings.n_sentences, self.everything[source]
        return generate_transfer_set(self.model, entities, n=n, seed=seed, path=path, progress=self.progress)
