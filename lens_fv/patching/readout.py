"""From final residual-stream states to what a metric needs, a block of rows at a time."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_fv.model.lens_model import LensModel

MOST_LOGITS = 2**25
"""Logits held at once: 128 MiB in single precision."""


def token_logprobs(
    model: LensModel, resid: Float[Tensor, "*rows d_model"], tokens: Int[Tensor, "*rows"]
) -> Float[Tensor, "*rows"]:
    """Log-probability of one token a row. Differentiable."""
    ids = tokens.reshape(-1)
    parts = [logits.gather(1, ids[at, None])[:, 0] - logits.logsumexp(-1) for at, logits in logit_blocks(model, resid)]
    return torch.cat(parts).reshape(tokens.shape)


def logit_blocks(model: LensModel, resid: Float[Tensor, "*rows d_model"]) -> Iterator[tuple[slice, Tensor]]:
    """Logits of rows in blocks, in single precision, with the slice of (flattened) rows that each block covers."""
    flat = resid.reshape(-1, resid.shape[-1])
    size = max(1, MOST_LOGITS // model.d_vocab)
    for start in range(0, len(flat), size):
        at = slice(start, min(start + size, len(flat)))
        yield at, model.unembed(flat[at]).float()
