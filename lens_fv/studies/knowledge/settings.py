"""Settings of the study of knowledge updates, and the entities and sentences of a run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from lens_fv.knowledge import DistillConfig, Entity, TransferSet, generate_transfer_set, load_entities
from lens_fv.studies.study import Study

ENTITIES, EXTERNAL, SIZES = "entities", "external", "sizes"
"""The parts that update the model; each also measures the base model on entities of its own."""
TUNING = 2
"""Index of the first entity that settings were chosen on."""
RECIPES: Mapping[str, tuple[DistillConfig, DistillConfig]] = {
    "distillation": (DistillConfig.for_entities(1), DistillConfig.for_entities(2)),
    "finetuning_definition": (
        DistillConfig(epochs=20, learning_rate=2e-3, batch_size=1, n_anchors=1),
        DistillConfig(epochs=15, learning_rate=5e-4, n_anchors=1),
    ),
    "finetuning_definition_gentle": (
        DistillConfig(epochs=14, learning_rate=1e-3, batch_size=1, n_anchors=1),
        DistillConfig(epochs=15, learning_rate=2e-4, n_anchors=1),
    ),
    "finetuning_sentences": (DistillConfig.for_entities(1), DistillConfig.for_entities(2)),
}
"""Training settings by method, for one entity and for several, chosen on ten entities that are not reported on.

Fine-tuning on the sentences uses the settings of distillation.
"""


@dataclass(frozen=True)
class KnowledgeSettings:
    """Settings of the study.

    Attributes:
        seeds: Seeds of the sentences, their order and the random draws. Only the main comparison uses all of them; the other
            parts use the first.
        entities: Entities to teach; see `load_entities`.
        locality: Unrelated entities that should not change.
        external_entities: File of further entities, such as Entity Inferences.
        max_external: Number of external entities taught by every method. Further ones only fill the largest updates.
        tuning_stride: One in `tuning_stride` entities was used to choose settings and is not reported on.
        stride: One in `stride` of the other entities is used.
        n_sentences: Number of sentences that the model writes about each entity.
        n_sentences_single: Number of those sentences used when an entity is taught alone.
        recipes: Training settings by method, for one entity and for several.
        entities_per_update: Number of entities per update in the main comparison. The first of these updates is also analysed.
        update_sizes: Numbers of entities per update in the comparison of sizes.
        locality_stride: Each update of a single entity is evaluated on one in `locality_stride` unrelated entities, in turn.
        n_traced: Number of entities with traced probes.
        tasks: Unrelated tasks to track by their instruction vectors of `n_heads` heads, in prompts with `n_shots`
            demonstrations.
        epochs: Epochs after which the first update is measured, besides its last one.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    entities: str = "invented"
    locality: str = "popular"
    external_entities: str | None = None
    max_external: int = 20
    tuning_stride: int = 5
    stride: int = 1
    n_sentences: int = 10
    n_sentences_single: int = 5
    recipes: Mapping[str, tuple[DistillConfig, DistillConfig]] = field(default_factory=lambda: dict(RECIPES))
    entities_per_update: int = 10
    update_sizes: tuple[int, ...] = (1, 40, 150)
    locality_stride: int = 6
    n_traced: int = 10
    tasks: tuple[str, ...] = ("present-past", "country-capital", "antonym")
    n_heads: int = 10
    n_shots: int = 5
    epochs: tuple[int, ...] = (1, 2)

    @property
    def measured_epochs(self) -> list[int]:
        """Epochs after which the first update is measured, the last one included."""
        last = self.recipes["distillation"][1].epochs
        return sorted({*(n for n in self.epochs if n < last), last})

    @classmethod
    def quick(cls) -> "KnowledgeSettings":
        """A small version: one seed, one in five of the reported entities, few sentences."""
        return cls(
            seeds=(0,),
            max_external=5,
            stride=5,
            n_sentences=4,
            n_sentences_single=4,
            entities_per_update=4,
            update_sizes=(1, 8),
            n_traced=2,
            tasks=("present-past", "country-capital"),
            epochs=(1,),
        )


class KnowledgeRun(Study[KnowledgeSettings]):
    """The entities and sentences of one model's run."""

    @cached_property
    def sources(self) -> dict[str, tuple[Entity, ...]]:
        """Entities by the part that measures the base model on them; SIZES only fills its largest update."""
        s = self.settings
        reported = [entity for i, entity in enumerate(load_entities(s.entities)) if i % s.tuning_stride != TUNING]
        entities = tuple(reported[:: s.stride])
        external = load_entities(s.external_entities, by="row") if s.external_entities else ()
        taught, further = external[: s.max_external], external[s.max_external :]
        missing = max(0, max(s.update_sizes) - len(entities) - len(taught))
        return {ENTITIES: entities, EXTERNAL: taught, SIZES: further[:missing]}

    @cached_property
    def tuning_entities(self) -> tuple[Entity, ...]:
        """Entities that settings are chosen on."""
        return load_entities(self.settings.entities)[TUNING :: self.settings.tuning_stride]

    @cached_property
    def locality(self) -> tuple[Entity, ...]:
        """Unrelated entities that no update should affect."""
        return load_entities(self.settings.locality)

    @property
    def first_group(self) -> tuple[Entity, ...]:
        """Entities of the first update of the main comparison."""
        return self.sources[ENTITIES][: self.settings.entities_per_update]

    def sentences(self, source: str, seed: int) -> TransferSet:
        """The model's sentences about the entities of a source; generated on the first call."""
        path, n = self.folder / f"sentences-{source}-{seed}.json", self.settings.n_sentences
        return generate_transfer_set(self.model, self.sources[source], n_sentences=n, seed=seed, path=path, progress=self.progress)
