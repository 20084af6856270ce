"""Settings of the study, and the folder with its results."""

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
"""Index of the first entity used to choose the settings."""
WAYS: Mapping[str, tuple[DistillConfig, DistillConfig]] = {
    "distill": (DistillConfig.for_entities(1), DistillConfig.for_entities(2)),
    "definition": (
        DistillConfig(epochs=20, learning_rate=2e-3, batch_size=1, n_anchors=1),
        DistillConfig(epochs=15, n_anchors=1),
    ),
    "definition_gently": (
        DistillConfig(epochs=14, learning_rate=1e-3, batch_size=1, n_anchors=1),
        DistillConfig(epochs=15, learning_rate=2e-4, n_anchors=1),
    ),
    "sentences": (DistillConfig.for_entities(1), DistillConfig.for_entities(2)),
}
"""Settings by training method, for a single entity and for several, chosen on ten entities that are not reported on.

Fine-tuning on the sentences uses the settings of distillation.
"""


@dataclass(frozen=True)
class KnowledgeSettings:
    """Settings of the study.

    Attributes:
        seeds: seeds of the sentences, their order and the random draws. The main comparison uses all of them, the other parts
            only the first.
        entities, locality: entities to teach, and unrelated ones that should not change; see `load_entities`.
        outside: file of further entities, such as Entity Inferences.
        most_outside: number of outside entities taught by every method. Further ones only fill the largest updates.
        stride: one in `stride` entities was used to choose settings. Only the others are reported.
        keep_stride: one in `keep_stride` of the reported entities is used.
        n_sentences: number of sentences that the model writes about each entity.
        n_alone: number of those sentences used when an entity is taught alone.
        ways: settings by training method, for one entity and for several at once; see `teachers`.
        entities_per_update: number of entities per update in the main comparison. The internal analyses use the first of these
            updates.
        numbers: numbers of entities taught at once, for the comparison by number.
        elsewhere_step: updates of a single entity are each evaluated on one in `elsewhere_step` of the unrelated entities, in
            turn.
        n_traced: number of entities with traced probes.
        tasks: unrelated tasks to track by their instruction vectors of `n_heads` heads, in prompts with `n_shots`
            demonstrations.
        moments: epochs after which the first update is measured, in addition to its last epoch.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    entities: str = "invented"
    locality: str = "popular"
    outside: str | None = None
    most_outside: int = 20
    stride: int = 5
    keep_stride: int = 1
    n_sentences: int = 10
    n_alone: int = 5
    ways: Mapping[str, tuple[DistillConfig, DistillConfig]] = field(default_factory=lambda: dict(WAYS))
    entities_per_update: int = 10
    numbers: tuple[int, ...] = (1, 40, 150)
    elsewhere_step: int = 6
    n_traced: int = 10
    tasks: tuple[str, ...] = ("present-past", "country-capital", "antonym")
    n_heads: int = 10
    n_shots: int = 5
    moments: tuple[int, ...] = (1, 2)

    @property
    def said(self) -> dict[str, Any]:
        """The settings as JSON-compatible values."""
        return json.loads(json.dumps(asdict(self)))

    @property
    def looked_at(self) -> list[int]:
        """Epochs after which the first update is measured, including the last one."""
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
        """Return the settings for a few high-level options.

        Args:
            quick: whether to run a small version: one seed, one in five of the reported entities, few sentences.
            outside: file of further entities.
            first_seed: first seed; the others follow it.
            n_seeds: number of seeds; default: three, or one if `quick`.
        """
        seeds = tuple(range(first_seed, first_seed + (n_seeds or (1 if quick else 3))))
        if not quick:
            return cls(seeds=seeds, outside=outside)
        return cls(
            seeds=seeds,
            outside=outside,
            most_outside=5,
            keep_stride=5,
            n_sentences=4,
            n_alone=4,
            entities_per_update=4,
            numbers=(1, 8),
            n_traced=2,
            tasks=("present-past", "country-capital"),
            moments=(1,),
        )


class Study:
    """The study of one model, in its own folder.

    Args:
        model: model to study.
        folder: folder for sentences, updates and records. Results already there are not computed again.
        settings: settings of the study. A later run may add seeds.
        progress: whether to show progress bars.

    Raises:
        LensFVError: the folder holds a run with other settings, another model or another data type, or `outside` is not a file
            of entities.
    """

    def __init__(self, model: LensModel, folder: str | Path, settings: KnowledgeSettings, *, progress: bool = False) -> None:
        self.model, self.folder, self.settings, self.progress = model, Path(folder), settings, progress
        about = {"model": model.name, "revision": model.revision, "fingerprint": model.fingerprint, **settings.said}
        about["outside"] = settings.outside and Path(settings.outside).name  # the file may move between runs
        check_settings(self.folder / "study.json", about, may_grow="seeds")
        note_versions(self.folder, model.dtype)

    def records(self, part: str) -> ResultStore:
        """Return the stored results of a part of the study."""
        return ResultStore(self.folder / f"{part}.json")

    @cached_property
    def sources(self) -> dict[str, tuple[Entity, ...]]:
        """Reported entities by source."""
        s = self.settings
        reported = [each for i, each in enumerate(load_entities(s.entities)) if i % s.stride != CHOSEN_BY]
        found = {OWN: tuple(reported[:: s.keep_stride])}
        return found | ({OUTSIDE: self._outside[: s.most_outside]} if s.outside else {})

    @property
    def first_few(self) -> tuple[Entity, ...]:
        """Entities of the first update of several."""
        return self.sources[OWN][: self.settings.entities_per_update]

    @cached_property
    def everything(self) -> dict[str, tuple[Entity, ...]]:
        """The reported entities, plus as many further outside entities as the largest update needs."""
        s, n = self.settings, sum(map(len, self.sources.values()))
        return self.sources | ({MORE: self._outside[s.most_outside :][: max(s.numbers) - n]} if n < max(s.numbers) else {})

    @cached_property
    def _outside(self) -> tuple[Entity, ...]:
        return load_entities(self.settings.outside, by="row") if self.settings.outside else ()

    @cached_property
    def chosen_by(self) -> tuple[Entity, ...]:
        """Entities used to choose settings."""
        return load_entities(self.settings.entities)[CHOSEN_BY :: self.settings.stride]

    @cached_property
    def locality(self) -> tuple[Entity, ...]:
        """Unrelated entities that no update should affect."""
        return load_entities(self.settings.locality)

    def sentences(self, source: str, seed: int) -> TransferSet:
        """Generate the model's sentences about a source's entities, or load them if they exist."""
        path = self.folder / f"sentences-{source}-{seed}.json"
        n, entities = self.settings.n_sentences, self.everything[source]
        return generate_transfer_set(self.model, entities, n=n, seed=seed, path=path, progress=self.progress)
