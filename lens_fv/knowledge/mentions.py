"""Definition vectors: what a definition adds to the residual stream at an entity's name, and its effect when added back."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.core.choices import Finite, Whole, checked
from lens_fv.errors import LensFVError
from lens_fv.heads.means import resid_states
from lens_fv.knowledge.entity import Entity
from lens_fv.knowledge.examples import tokens_before
from lens_fv.knowledge.measure import after_definition, definitions
from lens_fv.model.lens_model import LensModel
from lens_fv.patching import Edit

TEXTS = ("This is {name}", "Today, {name}", "The story of {name}", "People who know {name}")
"""Texts for extracting definition vectors; no probe of the built-in entities begins with one of them."""


class Mention(NamedTuple):
    """Location of an entity's name in a text.

    Attributes:
        tokens: token ids of the text, including any definition before it.
        first, last: indices of the name's first and last token.
    """

    tokens: tuple[int, ...]
    first: int
    last: int


def find_mention(model: LensModel, entity: Entity, text: str, *, definition: str = "") -> Mention:
    """Locate the tokens of an entity's first mention in a text, optionally after a definition.

    Raises:
        LensFVError: the text does not mention the entity.
    """
    place = entity.mention(text)
    if place is None:
        raise LensFVError(f"find {entity.key} in {text[:60]!r}: it is not mentioned there; give it that name as an alias")
    whole = after_definition(definition, text)
    begin, end = (at + len(whole) - len(text) for at in place)
    return Mention(tuple(model.encode(whole)), tokens_before(model, whole, begin), tokens_before(model, whole, end) - 1)


def probe_mentions(model: LensModel, entities: Sequence[Entity], context: Mapping[str, str] | None = None) -> list[Mention]:
    """Locate the entities' names in their probes, in the order of `probe_prompts`.

    Raises:
        LensFVError: see `find_mention`.
    """
    return [
        find_mention(model, entity, probe.prompt().text, definition=(context or {}).get(entity.key, ""))
        for entity in entities
        for probe in entity.probes
    ]


@torch.no_grad()
def definition_vectors(
    model: LensModel,
    entities: Sequence[Entity],
    *,
    texts: Sequence[str] = TEXTS,
    context: Mapping[str, str] | None = None,
) -> Float[Tensor, "entities layers d_model"]:
    """Compute what a definition in context adds to the residual stream at the name's last token, after each layer.

    The vector is the difference of means over texts that name the entity, with and without the definition in front. It is to an
    entity's knowledge what a function vector is to a task.

    Args:
        model: model to read from.
        entities: entities with definitions.
        texts: texts with a `{name}` placeholder; only the part up to the name is used.
        context: context by entity key; default: the definitions.

    Raises:
        LensFVError: no texts, or any error of `find_mention`.
    """
    if not texts:
        raise LensFVError(f"definition vectors of {len(entities)} entities: no text names them")
    read = definitions(entities) if context is None else context
    named = [(entity, text.format(name=entity.name)) for entity in entities for text in texts]
    with_it, without = (
        resid_states(
            model,
            [(m := find_mention(model, entity, text, definition=each)).tokens[: m.last + 1] for entity, text, each in rows],
        )
        for rows in ([(e, t, read.get(e.key, "")) for e, t in named], [(e, t, "") for e, t in named])
    )
    return (with_it - without).unflatten(0, (len(entities), len(texts))).mean(1)


@checked
def at_mentions(
    model: LensModel,
    entities: Sequence[Entity],
    vectors: Float[Tensor, "entities layers d_model"],
    layer: Whole,
    *,
    scale: Finite = 1.0,
) -> Edit:
    """Make an edit that adds each entity's vector after a layer, at the last token of its name in each of its probes.

    The edit is an input for `score_probes_by_branch`.

    Raises:
        LensFVError: the layer does not exist, the number of vectors differs from the number of entities, or a probe does not
            name its entity.
    """
    layer = model.check_layer(layer)
    if len(vectors) != len(entities):
        raise LensFVError(f"add vectors of {len(vectors)} entities where {len(entities)} are named; give each its own")
    rows = [i for i, entity in enumerate(entities) for _ in entity.probes]
    places = tuple(mention.last for mention in probe_mentions(model, entities))
    return Edit(layer, scale * vectors[rows, layer], mode="add", position=places)
