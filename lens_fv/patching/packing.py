"""Tokens of several prompts without the padding between them.

Norms, projections and MLPs treat every token by itself: only attention asks which prompt a token belongs to. So blocks run all
prompts' tokens as if they were one prompt's, and padding exists in attention alone.
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor


class Packing:
    """An order of the real tokens in which those of a pass's first rows come first.

    Args:
        real: which of the tokens are no padding. If all are, nothing is packed, and "packed" is "prompts tokens ...".
    """

    def __init__(self, real: Bool[Tensor, "prompts tokens"]) -> None:
        self._prompts, self._tokens = real.shape
        self._whole = bool(real.all())
        by_token = real.T.flatten()
        self._real = by_token.nonzero()[:, 0]  # token after token, and within a token prompt after prompt
        self._slots = (by_token.cumsum(0) - 1).reshape(self._tokens, self._prompts)
        self._ends = [0, *(self._slots[:, -1] + 1).tolist()]

    def size(self, tokens: int) -> int:
        """How long the first tokens are when packed."""
        return tokens if self._whole else self._ends[tokens]

    def pack(self, x: Tensor, begin: int = 0) -> Tensor:
        """Tokens `begin` and following, "prompts tokens ..." (or the same for all prompts), as "1 packed ..."."""
        if self._whole:
            return x
        x = x.expand(self._prompts, *x.shape[1:])
        at = self._real[self._ends[begin] : self._ends[begin + x.shape[1]]] - begin * self._prompts
        token, prompt = at // self._prompts, at % self._prompts
        return x.flatten(0, 1).index_select(0, prompt * x.shape[1] + token)[None]

    def unpack(self, x: Tensor, begin: int, end: int, dim: int = 1) -> Tensor:
        """Tokens `begin` to `end`, "prompts tokens ...", of all that are packed along a dimension; padding is arbitrary."""
        if self._whole:
            return x.narrow(dim, begin, end - begin)
        slots = self._slots[begin:end].T.clamp(min=self._ends[begin])  # padding looks like the token before it
        found = x.index_select(dim, slots.flatten()).squeeze(0).unflatten(dim - 1, slots.shape)
        return found.movedim(dim - 1, 0)

    def places(self, prompts: Int[Tensor, " prompts"], tokens: Int[Tensor, "#n #prompts"]) -> tuple[Tensor, Tensor]:
        """Indices of real tokens in what is packed."""
        return (prompts, tokens) if self._whole else (torch.zeros_like(prompts), self._slots[tokens, prompts])
