"""Ways to teach a model about one entity."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from lens_fv.knowledge import Entity, TransferSet, WeightDelta, distill, learn_texts, random_definitions, said_of_others
from lens_fv.studies.knowledge.settings import Study

EVERYWHERE = ("distill", "definition", "definition_gently", "sentences")
"""Those that are compared with all seeds and on all entities."""
CONTROLS = ("unanchored", "anchored_definition", "other_sentences", "wrong_definition")
"""Those that are tried on the study's own entities with the first seed."""


def teachers(
    study: Study, entities: Sequence[Entity], transfer: TransferSet, seed: int
) -> Mapping[str, Callable[[int], WeightDelta]]:
    """Ways to teach, by name: from an entity's index to the update.

    "distill"; "definition" and "sentences": fine-tuning on these texts, with the settings that taught most;
    "definition_gently": with those that taught most of those that moved nothing else;
    "unanchored": distillation without anchors;
    "anchored_definition": fine-tuning on the definition, with it said of others for anchors;
    "other_sentences": the right definition, and sentences that were written about another entity; "wrong_definition": another
    entity's definition. For these two no definition is among the sentences: it would say what is right.

    Args:
        study: the study.
        entities: of one source.
        transfer: sentences about them; each is taught its first few.
        seed: of the order and of anchors.
    """
    s, model = study.settings, study.model
    few = TransferSet({key: texts[: s.n_alone] for key, texts in transfer.sentences.items()})
    own = TransferSet({each.key: (each.definition,) for each in entities})

    def distilled(entity: Entity, sentences: TransferSet, *, anchored: bool = True, times: int = 0) -> WeightDelta:
        settings = replace(s.alone, seed=seed)
        n = settings.epochs * settings.n_anchors
        anchors = said_of_others([entity], sentences, times=n, seed=seed) if anchored else ()
        return distill(model, [entity], sentences.with_definitions([entity], times=times), settings, anchors=anchors)

    def definition(entity: Entity, *, gently: bool = False, anchored: bool = False) -> WeightDelta:
        settings = replace(s.gentle_definition if gently else s.definition, seed=seed)
        anchors = said_of_others([entity], own, times=settings.epochs, seed=seed) if anchored else ()
        return learn_texts(model, [entity], [[entity.definition]], settings, anchors=anchors)

    def sentences(entity: Entity) -> WeightDelta:
        whole = few.with_definitions([entity], times=s.n_definitions)
        return learn_texts(model, [entity], [whole.sentences.get(entity.key, ())], replace(s.texts, seed=seed))

    def mistaken(entity: Entity) -> Entity:
        return replace(entity, definition=random_definitions(entities, seed)[entity.key])

    return {
        "distill": lambda i: distilled(entities[i], few, times=s.n_definitions),
        "definition": lambda i: definition(entities[i]),
        "definition_gently": lambda i: definition(entities[i], gently=True),
        "sentences": lambda i: sentences(entities[i]),
        "unanchored": lambda i: distilled(entities[i], few, anchored=False, times=s.n_definitions),
        "anchored_definition": lambda i: definition(entities[i], anchored=True),
        "other_sentences": lambda i: distilled(entities[i], _exchanged(entities, few)),
        "wrong_definition": lambda i: distilled(mistaken(entities[i]), few),
    }


def _exchanged(entities: Sequence[Entity], transfer: TransferSet) -> TransferSet:
    """To each entity the sentences that were written about the next one, with its own name in them."""
    found: dict[str, tuple[str, ...]] = {}
    for entity, other in zip(entities, [*entities[1:], entities[0]], strict=True):
        texts = transfer.sentences.get(other.key, ())
        places = [(text, other.mention(text)) for text in texts]
        found[entity.key] = tuple(text[: at[0]] + entity.name + text[at[1] :] for text, at in places if at)
    return TransferSet(found)
