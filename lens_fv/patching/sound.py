"""The engine's assumptions about a model, checked with two short passes at its first use."""

import math
from collections.abc import Iterator
from typing import NamedTuple
from weakref import WeakSet

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_fv.errors import LensFVError
from lens_fv.model.exclusive import forwards_replaced, hooks_off
from lens_fv.model.lens_model import LensModel
from lens_fv.model.measuring import measured


class Comparison(NamedTuple):
    """Two computations that must give the same probabilities.

    Attributes:
        check: Property that should hold.
        fault: Description of the fault if it does not.
        error: Largest absolute difference in probability between them.
    """

    check: str
    fault: str
    error: float


def largest_difference(one: Tensor, other: Tensor) -> float:
    """Largest absolute difference of two tensors of one shape, in double precision; infinite if either contains NaN."""
    difference = float((one.double() - other.double()).abs().max())
    return float("inf") if math.isnan(difference) else difference


def comparisons(
    model: LensModel,
    tokens: Int[Tensor, "batch pos"],
    last: Float[Tensor, "batch pos d_model"],
    logits: Float[Tensor, "batch pos vocab"],
) -> Iterator[Comparison]:
    """Yield the comparisons that must hold for every model, whichever backend runs its branches.

    Args:
        model: Model to check.
        tokens: Tokens that were run.
        last: Residual stream after the last layer.
        logits: Logits of the same pass.
    """
    probabilities = logits.softmax(-1)
    if model.backend == "bridge" and model.weight_processing == "raw":
        yield Comparison(
            "TransformerLens' attention is that of transformers",
            "the attention that TransformerLens runs is not transformers' own",
            largest_difference(_with_own_attention(model, tokens).softmax(-1), probabilities),
        )
    yield Comparison(
        "last state through norm and unembedding gives the logits",
        "its logits are not those of its last state through norm and unembedding",
        largest_difference(model.unembed(last).softmax(-1), probabilities),
    )


_SOUND: WeakSet[LensModel] = WeakSet()


@torch.no_grad()
@measured
def require_sound(model: LensModel) -> None:
    """Check a model once, at its first use.

    Raises:
        LensFVError: logits are not finite, hooks do not fire, attention differs from transformers' own, or logits do not follow
            from the last state by norm and unembedding alone, as in models with more layers in their head.
    """
    if model in _SOUND:
        return
    tokens = torch.randint(model.d_vocab, (1, min(12, model.n_ctx)), generator=torch.Generator().manual_seed(0))
    states: list[Tensor] = []
    with hooks_off(model.tl):
        logits = model.forward(tokens, [model.last_state_hook(states)])
        if not states:
            raise LensFVError(f"run {model.name}: its hooks do not fire in the last layer; see `lens-fv verify`")
        for comparison in comparisons(model, tokens, states[-1], logits):
            if comparison.error > model.tolerance:
                raise LensFVError(
                    f"run {model.name}: {comparison.fault} (off by {comparison.error:.2g} in probability), so numbers that are "
                    "measured would be another model's; `lens-fv verify` shows more"
                )
    _SOUND.add(model)


def _with_own_attention(model: LensModel, tokens: Tensor) -> Tensor:
    """Logits with transformers' own attention modules in place of TransformerLens' versions."""
    bridges = [block.attn for block in model.tl.blocks if getattr(getattr(block, "attn", None), "original_component", None)]
    with forwards_replaced(model, bridges, [bridge.original_component.__call__ for bridge in bridges]):
        return model.tl(tokens.to(model.device), return_type="logits")
