"""Methods to teach a model about one entity or about several at once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lens_fv.knowledge import (
    DistillConfig,
    Entity,
    TransferSet,
    WeightDelta,
    distill,
    entity_swapped_anchors,
    finetune_on_texts,
    random_definitions,
)
from lens_fv.studies.knowledge.settings import Study

CONTROLS = ("unanchored", "anchored_definition", "other_sentences", "wrong_definition")
"""Control methods, run only on the study's own entities with the first seed; all other methods have their own settings."""
COUNTED = ("distill", "definition")
"""Methods used for growing numbers of entities; a single entity is taught by every method except the controls."""
CHECKPOINTS = 2
"""Number of checkpoints of a distillation: one in the middle and one at the end."""

Teacher = Callable[[Sequence[Entity], Path | None], WeightDelta]
"""Function from entities, and an optional folder for checkpoints, to an update."""


def teachers(study: Study, known: Sequence[Entity], transfer: TransferSet, seed: int) -> Mapping[str, Teacher]:
    """Return the training methods by name.

    - "distill": distillation.
    - "definition": fine-tuning on the definition, with the settings that closed most of the gap.
    - "definition_gently": the same, with the best settings among those that left unrelated probes nearly unchanged.
    - "sentences": fine-tuning on the sentences, with the settings of distillation.
    - "unanchored": distillation without anchors.
    - "anchored_definition": "definition_gently", with entity-swapped definitions as anchors.
    - "other_sentences": distillation of the right definition on sentences written about another entity.
    - "wrong_definition": distillation of another entity's definition.

    The last two add no definitions to the sentences, since a correct one would state the facts directly. "other_sentences"
    shares no sentences either, since an entity could get its own sentences back.

    Args:
        study: study to run.
        known: all entities of a source, including those to teach.
        transfer: sentences about them.
        seed: seed of the order and of the anchors.
    """

    def mistaken(entities: Sequence[Entity], folder: Path | None) -> WeightDelta:
        wrong = random_definitions(known, seed)
        taught = [replace(each, definition=wrong[each.key]) for each in entities]
        return distilled(study, taught, transfer, seed, folder, n_definitions=0)

    def exchanged(entities: Sequence[Entity], folder: Path | None) -> WeightDelta:
        return distilled(study, entities, _exchanged(known, transfer), seed, folder, n_definitions=0, n_shared=0)

    def sentences(entities: Sequence[Entity], _: Path | None) -> WeightDelta:
        settings = _settings(study, "sentences", entities, seed)
        whole = _few(study, entities, transfer).with_definitions(entities, n_copies=settings.n_definitions).sentences
        return finetune_on_texts(
            study.model, entities, [whole.get(each.key, ()) for each in entities], settings, allow_empty=True
        )

    return {
        "distill": lambda entities, folder: distilled(study, entities, transfer, seed, folder),
        "definition": partial(_definition, study, "definition", seed),
        "definition_gently": partial(_definition, study, "definition_gently", seed),
        "sentences": sentences,
        "unanchored": lambda entities, folder: distilled(study, entities, transfer, seed, folder, n_anchors=0),
        "anchored_definition": partial(_definition, study, "definition_gently", seed, anchored=True),
        "other_sentences": exchanged,
        "wrong_definition": mistaken,
    }


def distilled(
    study: Study,
    entities: Sequence[Entity],
    transfer: TransferSet,
    seed: int,
    folder: Path | None,
    *,
    until: int | None = None,
    **changes: Any,
) -> WeightDelta:
    """Compute an update by distillation.

    Args:
        study: study to run.
        entities: entities to teach.
        transfer: sentences about them.
        seed: seed of the order and of the anchors.
        folder: folder for checkpoints; see `distill`.
        until: see `distill`.
        **changes: settings to override.
    """
    settings = replace(_settings(study, "distill", entities, seed), **changes)
    # Entities without usable sentences count as taught nothing; their probes are still scored.
    place: dict[str, Any] = {"folder": folder, "stop_after_epochs": until, "allow_empty": True}
    place["progress"] = study.progress and len(entities) > 1
    return distill(study.model, entities, _few(study, entities, transfer), settings, **place)


def _definition(
    study: Study, way: str, seed: int, entities: Sequence[Entity], _: Path | None, *, anchored: bool = False
) -> WeightDelta:
    settings, definitions = _settings(study, way, entities, seed), [(each.definition,) for each in entities]
    own = TransferSet({each.key: texts for each, texts in zip(entities, definitions, strict=True)})
    n = settings.epochs * settings.n_anchors
    anchors = entity_swapped_anchors(entities, own, n_per_sentence=n, seed=seed) if anchored else ()
    return finetune_on_texts(study.model, entities, definitions, settings, anchors=anchors, allow_empty=True)


def _settings(study: Study, way: str, entities: Sequence[Entity], seed: int) -> DistillConfig:
    alone, together = study.settings.ways[way]
    return replace(alone if len(entities) == 1 else together, seed=seed, n_checkpoints=CHECKPOINTS)


def _few(study: Study, entities: Sequence[Entity], transfer: TransferSet) -> TransferSet:
    """Select the sentences about these entities, fewer for a single entity."""
    n = study.settings.n_alone if len(entities) == 1 else None
    return TransferSet({each.key: transfer.sentences.get(each.key, ())[:n] for each in entities})


def _exchanged(entities: Sequence[Entity], transfer: TransferSet) -> TransferSet:
    """Give each entity the sentences written about the next one, with its own name substituted."""
    found: dict[str, tuple[str, ...]] = {}
    for entity, other in zip(entities, [*entities[1:], entities[0]], strict=True):
        found[entity.key] = tuple(other.renamed(text, entity.name) for text in transfer.sentences.get(other.key, ()))
    return TransferSet(found)
