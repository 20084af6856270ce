"""Static baselines: differences between the embeddings or hidden states of single words."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.model.lens_model import LensModel
from lens_fv.model.measuring import measured
from lens_fv.tasks import Pair


@torch.no_grad()
@measured
def embedding_differences(model: LensModel, pairs: Sequence[Pair]) -> Float[Tensor, "pairs d_model"]:
    """Compute embedding differences, (primary) output minus input, with each word averaged over its tokens."""
    words = _words(pairs)
    rows = {word: model.tl.W_E[_tokens(model, word)].float().mean(0).cpu() for word in words}
    return torch.stack([rows[pair.output] - rows[pair.input] for pair in pairs])


@torch.no_grad()
def state_differences(
    model: LensModel, pairs: Sequence[Pair], layers: Sequence[int], *, batch_size: int = 64
) -> Float[Tensor, "layers pairs d_model"]:
    """Compute residual-stream differences, (primary) output minus input, each word alone at its last token.

    Args:
        model: the model.
        pairs: word pairs.
        layers: layers after which states are read.
        batch_size: number of words per batch.
    """
    tokens = {word: _tokens(model, word) for word in _words(pairs)}
    bos = [model.tokenizer.bos_token_id] if model.prepend_bos else []
    rows: dict[str, Tensor] = {}
    for length in sorted({len(ids) for ids in tokens.values()}):
        alike = [word for word, ids in tokens.items() if len(ids) == length]
        for at in range(0, len(alike), batch_size):
            part = alike[at : at + batch_size]
            found: dict[int, Tensor] = {}
            hooks = [(f"blocks.{layer}.hook_resid_post", partial(_keep, found, layer)) for layer in set(layers)]
            model.run_body(torch.tensor([bos + tokens[word] for word in part]), hooks)
            rows |= dict(zip(part, torch.stack([found[layer] for layer in layers], 1), strict=True))
    return torch.stack([rows[pair.output] - rows[pair.input] for pair in pairs], 1)


def _keep(found: dict[int, Tensor], layer: int, x: Tensor, hook: Any) -> None:  # noqa: ARG001
    found[layer] = x[:, -1].float().cpu()


def _words(pairs: Sequence[Pair]) -> list[str]:
    return list(dict.fromkeys(word for pair in pairs for word in (pair.input, pair.output)))


def _tokens(model: LensModel, word: str) -> list[int]:
    return model.encode(f" {word}", bos=False)
