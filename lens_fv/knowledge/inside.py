"""What a definition adds inside a model where an entity is named, and what that does without the definition."""

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
from lens_fv.knowledge.measure import behind, definitions
from lens_fv.model.lens_model import LensModel
from lens_fv.patching import Edit

TEXTS = ("This is {name}", "Today, {name}", "The story of {name}", "People who know {name}")
"""Where an entity is named when its definition vector is taken; no probe of the built-in entities begins so."""


class Mention(NamedTuple):
    """Where a text names an entity.

    Attributes:
        tokens: of the text, and of what it stands behind.
        first, last: indices of the first and the last token of the name.
    """

    tokens: tuple[int, ...]
    first: int
    last: int


def find_mention(model: LensModel, entity: Entity, text: str, *, definition: str = "") -> Mention:
    """The tokens of the first mention of an entity in a text, which may stand behind a definition.

    Raises:
        LensFVError: it is not mentioned.
    """
    place = entity.mention(text)
    if place is None:
        raise LensFVError(f"find {entity.key} in {text[:60]!r}: it is not mentioned there; give it that name as an alias")
    whole = behind(definition, text)
    begin, end = (at + len(whole) - len(text) for at in place)
    return Mention(tuple(model.encode(whole)), tokens_before(model, whole, begin), tokens_before(model, whole, end) - 1)


def probe_mentions(model: LensModel, entities: Sequence[Entity], context: Mapping[str, str] | None = None) -> list[Mention]:
    """Where probes name their entities, in the order of `probe_prompts`.

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
    """What reading a definition adds to the residual stream at the last token of an entity's name, after each layer.

    A difference of means over texts that name the entity, with and without the definition in front: for knowledge what a
    function vector is for a task.

    Args:
        model: the model.
        entities: with definitions.
        texts: with `{name}`, and nothing behind it that matters.
        context: what is read, by the entity's key; default: the definitions.

    Raises:
        LensFVError: no texts, or what `find_mention` raises.
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
    """Entities' vectors added after a layer at the last token of their names in their probes, for `score_probes_by_branch`.

    Raises:
        LensFVError: no such layer, vectors of other entities, or a probe that does not name its entity.
    """
    layer = model.check_layer(layer)
    if len(vectors) != len(entities):
        raise LensFVError(f"add vectors of {len(vectors)} entities where {len(entities)} are named; give each its own")
    rows = [i for i, entity in enumerate(entities) for _ in entity.probes]
    places = tuple(mention.last for mention in probe_mentions(model, entities))
    return Edit(layer, scale * vectors[rows, layer], mode="add", position=places)
