"""Packing: tokens of several prompts without the padding between them.

Norms, projections and MLPs treat every token separately; only attention depends on which prompt a token belongs to. So blocks
run the tokens of all prompts as if they formed one prompt, and padding exists only inside attention.
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor


class Packing:
    """An order of the real tokens that puts those of a pass's first rows first.

    Args:
        real: Mask of the tokens that are not padding. Without padding nothing is packed, and "packed" is "prompts tokens ...".
    """

    def __init__(self, real: Bool[Tensor, "prompts tokens"]) -> None:
        self._prompts, self._tokens = real.shape
        self._whole = bool(real.all())
        by_token = real.T.flatten()
        self._real = by_token.nonzero()[:, 0]  # sorted by token index, then by prompt
        self._slots = (by_token.cumsum(0) - 1).reshape(self._tokens, self._prompts)
        self._ends = [0, *(self._slots[:, -1] + 1).tolist()]

    def size(self, tokens: int) -> int:
        """Packed length of the first `tokens` tokens of all prompts."""
        return tokens if self._whole else self._ends[tokens]

    def pack(self, x: Tensor, begin: int = 0) -> Tensor:
        """Pack the tokens from `begin` on, "prompts tokens ..." (or the same for all prompts), into "1 packed ..."."""
        if self._whole:
            return x
        x = x.expand(self._prompts, *x.shape[1:])
        places = self._real[self._ends[begin] : self._ends[begin + x.shape[1]]] - begin * self._prompts
        token, prompt = places // self._prompts, places % self._prompts
        return x.flatten(0, 1).index_select(0, prompt * x.shape[1] + token)[None]

    def unpack(self, x: Tensor, begin: int, end: int, dim: int = 1) -> Tensor:
        """Unpack tokens `begin` to `end` along a dimension into "prompts tokens ..."; the values of padding are arbitrary."""
        if self._whole:
            return x.narrow(dim, begin, end - begin)
        slots = self._slots[begin:end].T.clamp(min=self._ends[begin])  # padding repeats the token before it
        unpacked = x.index_select(dim, slots.flatten()).squeeze(0).unflatten(dim - 1, slots.shape)
        return unpacked.movedim(dim - 1, 0)

    def places(self, prompts: Int[Tensor, " prompts"], tokens: Int[Tensor, "#n #prompts"]) -> tuple[Tensor, Tensor]:
        """Indices of real tokens in the packed tensor."""
        return (prompts, tokens) if self._whole else (torch.zeros_like(prompts), self._slots[tokens, prompts])
