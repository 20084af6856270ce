"""Controls for vectors: random directions, and the same outputs at other heads."""

import random
from dataclasses import replace

import torch
from torch import Tensor

from lens_fv.core.choices import Seed, checked
from lens_fv.errors import LensFVError
from lens_fv.vectors.function_vector import FunctionVector


@checked
def random_like(vector: FunctionVector, *, seed: Seed = 0, heads: bool = False) -> FunctionVector:
    """Control: a random direction with the same norm, injected at the same place.

    Args:
        vector: Vector to imitate.
        seed: Seed of the random draw.
        heads: Keep the heads too, with random outputs of the same norms.

    Example:
        >>> control = lens_fv.vectors.random_like(vector, seed=1)
        >>> torch.allclose(control.vector.norm(), vector.vector.norm())
        True
    """
    rng = torch.Generator().manual_seed(seed)
    direction = random_rows_like(vector.vector, rng) * vector.scale
    control = vector.with_vector(direction, method="random", options={"random_seed": seed})
    if not heads:
        return control
    outputs = random_rows_like(vector.head_outputs, rng) * vector.scale
    return replace(control, site=vector.site, heads=vector.heads, head_outputs=outputs)


@checked
def other_heads(vector: FunctionVector, *, seed: Seed = 0) -> FunctionVector:
    """Control for the choice of heads: the same outputs at other random heads, with the same number per layer.

    Args:
        vector: Vector with heads.
        seed: Seed of the random draw.

    Raises:
        LensFVError: the vector has no heads, or a layer has too few other heads.

    Example:
        >>> extracted = lens_fv.extract(model, task, ranking, n_heads=2)
        >>> set(lens_fv.vectors.other_heads(extracted).heads) & set(extracted.heads)
        set()
    """
    rng, n_heads = random.Random(seed), vector.provenance.shape[1]
    drawn: dict[int, list[int]] = {}
    for layer in sorted({layer for layer, _ in vector.heads}):
        own = [head for other, head in vector.heads if other == layer]
        rest = [head for head in range(n_heads) if head not in own]
        if len(rest) < len(own):
            raise LensFVError(f"other heads than {len(own)} of layer {layer}: it has {n_heads}; take fewer")
        drawn[layer] = rng.sample(rest, len(own))
    if not drawn:
        raise LensFVError("other heads than those of a vector that has none, such as a tuned one; extract one")
    heads = tuple((layer, drawn[layer].pop()) for layer, _ in vector.heads)
    provenance = replace(vector.provenance, method="other heads", options={**vector.provenance.options, "random_seed": seed})
    return replace(vector, heads=heads, provenance=provenance)


def random_rows_like(like: Tensor, rng: torch.Generator) -> Tensor:
    """Random rows with the same norms."""
    draw = torch.randn(like.shape, generator=rng).to(like)
    return draw * like.norm(dim=-1, keepdim=True) / draw.norm(dim=-1, keepdim=True)
