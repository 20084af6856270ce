"""Definition vectors: what a definition adds to the residual stream at an entity's name, and its effect when added back."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.core.choices import Finite, Whole, checked
from lens_fv.errors import LensFVError
from lens_fv.heads.means import resid_states
from lens_fv.knowledge.entity import Entity, after_definition, all_probes, definitions
from lens_fv.knowledge.examples import tokens_before
from lens_fv.model.lens_model import LensModel
from lens_fv.patching import Edit

TEXTS = ("This is {name}", "Today, {name}", "The story of {name}", "People who know {name}")
"""Texts for extracting definition vectors; no probe of the built-in entities begins with one of them."""


class Mention(NamedTuple):
    """Location of an entity's name in a text.

    Attributes:
        tokens: Token ids of the text, including any definition before it.
        first, last: Indices of the name's first and last token.
    """

    tokens: tuple[int, ...]
    first: int
    last: int


def find_mention(model: LensModel, entity: Entity, text: str, *, definition: str = "") -> Mention:
    """Locate the tokens of an entity's first mention in a text, optionally after a definition."""
    span = entity.mention(text)
    if span is None:
        raise LensFVError(f"find {entity.key} in {text[:60]!r}: it is not mentioned there; give it that name as an alias")
    prompt = after_definition(definition, text)
    start, end = (len(prompt) - len(text) + index for index in span)
    return Mention(tuple(model.encode(prompt)), tokens_before(model, prompt, start), tokens_before(model, prompt, end) - 1)


def probe_mentions(model: LensModel, entities: Sequence[Entity], context: Mapping[str, str] | None = None) -> list[Mention]:
    """Locate the entities' names in their probes, in the order of `probe_prompts`."""
    context = context or {}
    return [
        find_mention(model, entity, probe.prompt().text, definition=context.get(entity.key, ""))
        for entity, probe in all_probes(entities)
    ]


@checked
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
        model: Model to read from.
        entities: Entities with definitions.
        texts: Texts with a `{name}` placeholder; only the part up to the name is used.
        context: Context by entity key; default: the definitions.

    Raises:
        LensFVError: no texts, or a text that does not mention the entity.

    Example:
        >>> lens_fv.knowledge.definition_vectors(model, entities).shape
        torch.Size([2, 3, 32])
    """
    if not texts:
        raise LensFVError(f"definition vectors of {len(entities)} entities: no text names them")
    if context is None:
        context = definitions(entities)

    def states_at_names(definition_of: Mapping[str, str]) -> Float[Tensor, "prompts layers d_model"]:
        prompts: list[tuple[int, ...]] = []
        for entity in entities:
            for text in texts:
                definition = definition_of.get(entity.key, "")
                mention = find_mention(model, entity, text.format(name=entity.name), definition=definition)
                prompts.append(mention.tokens[: mention.last + 1])
        return resid_states(model, prompts)

    differences = states_at_names(context) - states_at_names({})
    return differences.unflatten(0, (len(entities), len(texts))).mean(1)


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

    Example:
        >>> vectors = lens_fv.knowledge.definition_vectors(model, entities)
        >>> edit = lens_fv.knowledge.at_mentions(model, entities, vectors, layer=1)
        >>> edit.layer
        1
    """
    layer = model.check_layer(layer)
    if len(vectors) != len(entities):
        raise LensFVError(f"add vectors of {len(vectors)} entities where {len(entities)} are named; give each its own")
    rows = [i for i, entity in enumerate(entities) for _ in entity.probes]
    positions = tuple(mention.last for mention in probe_mentions(model, entities))
    return Edit(layer, scale * vectors[rows, layer], mode="add", position=positions)
