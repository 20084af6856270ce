"""Ways to teach a model about one entity, or about several at once."""

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
"""Ways that are tried on the study's own entities with the first seed; all others have settings of their own."""
COUNTED = ("distill", "definition")
"""Ways in which more and more entities are taught at once; one entity alone is taught in every way but the controls."""
CHECKPOINTS = 2
"""Of a distillation, to go on from: in the middle and at the end."""

Teacher = Callable[[Sequence[Entity], Path | None], WeightDelta]
"""From entities, and a folder of checkpoints if they are worth keeping, to an update."""


def teachers(study: Study, known: Sequence[Entity], transfer: TransferSet, seed: int) -> Mapping[str, Teacher]:
    """Ways to teach, by name.

    "distill"; "definition" and "sentences": fine-tuning on these texts, with the settings that taught most;
    "definition_gently": with those that taught most of those that moved nothing else;
    "unanchored": distillation without anchors; "anchored_definition": gently, with the definition said of others for anchors;
    "other_sentences": the right definition, and sentences that were written about another entity; "wrong_definition": another
    entity's definition. For these two no definition is among the sentences: it would say what is right.
    With the former nothing is shared: an entity would get its own sentences back.

    Args:
        study: the study.
        known: all entities of a source; those taught are among them.
        transfer: sentences about them.
        seed: of the order and of anchors.
    """

    def mistaken(entities: Sequence[Entity], folder: Path | None) -> WeightDelta:
        wrong = random_definitions(known, seed)
        taught = [replace(each, definition=wrong[each.key]) for each in entities]
        return distilled(study, taught, transfer, seed, folder, n_definitions=0)

    def exchanged(entities: Sequence[Entity], folder: Path | None) -> WeightDelta:
        return distilled(study, entities, _exchanged(known, transfer), seed, folder, n_definitions=0, n_shared=0)

    def sentences(entities: Sequence[Entity], _: Path | None) -> WeightDelta:
        settings = _settings(study, "sentences", entities, seed)
        whole = _few(study, entities, transfer).with_definitions(entities, times=settings.n_definitions).sentences
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
    """An update by distillation.

    Args:
        study: the study.
        entities: what is taught.
        transfer: sentences about them.
        seed: of the order and of anchors.
        folder: of checkpoints; see `distill`.
        until: see `distill`.
        **changes: to the settings.
    """
    settings = replace(_settings(study, "distill", entities, seed), **changes)
    # An entity without a sentence that can be used is one that was taught nothing: its probes are asked all the same.
    place: dict[str, Any] = {"folder": folder, "until": until, "allow_empty": True}
    place["progress"] = study.progress and len(entities) > 1
    return distill(study.model, entities, _few(study, entities, transfer), settings, **place)


def _definition(
    study: Study, way: str, seed: int, entities: Sequence[Entity], _: Path | None, *, anchored: bool = False
) -> WeightDelta:
    settings, definitions = _settings(study, way, entities, seed), [(each.definition,) for each in entities]
    own = TransferSet({each.key: texts for each, texts in zip(entities, definitions, strict=True)})
    n = settings.epochs * settings.n_anchors
    anchors = entity_swapped_anchors(entities, own, times=n, seed=seed) if anchored else ()
    return finetune_on_texts(study.model, entities, definitions, settings, anchors=anchors, allow_empty=True)


def _settings(study: Study, way: str, entities: Sequence[Entity], seed: int) -> DistillConfig:
    alone, together = study.settings.ways[way]
    return replace(alone if len(entities) == 1 else together, seed=seed, n_checkpoints=CHECKPOINTS)


def _few(study: Study, entities: Sequence[Entity], transfer: TransferSet) -> TransferSet:
    """As many sentences about these entities as are taught: fewer about one alone."""
    n = study.settings.n_alone if len(entities) == 1 else None
    return TransferSet({each.key: transfer.sentences.get(each.key, ())[:n] for each in entities})


def _exchanged(entities: Sequence[Entity], transfer: TransferSet) -> TransferSet:
    """To each entity the sentences that were written about the next one, with its own name in them."""
    found: dict[str, tuple[str, ...]] = {}
    for entity, other in zip(entities, [*entities[1:], entities[0]], strict=True):
        found[entity.key] = tuple(other.renamed(text, entity.name) for text in transfer.sentences.get(other.key, ()))
    return TransferSet(found)
