"""Block arguments for one row, turned into those for many."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from lens_fv.errors import LensFVError
from lens_fv.patching.calls import Call, Kind
from lens_fv.patching.packing import Packing


class Tiling:
    """The arguments of one pass: `lead` prefix tokens (all or none), then rows of `width` tokens.

    Layers share most of their arguments, and what fewer rows need is the front of what more rows need: so each is tiled once,
    for all rows, and cut.

    Args:
        suffixes: for each row that there may be, which of the recorded suffixes it runs.
        width: tokens a row.
        prefix: prefix tokens in all.
        lead: those that run in this pass.
        cache: what the blocks find in place of the cache they were recorded with.
        packing: for the blocks' tokens; None: make masks that keep the rows apart, over tokens that are not packed. Else the
            mask for prefix and one row stays as it is.
    """

    def __init__(
        self,
        suffixes: Sequence[int],
        *,
        width: int,
        prefix: int,
        lead: int,
        cache: DynamicCache | None,
        packing: Packing | None,
    ) -> None:
        self._suffixes, self._rows, self._width, self._prefix, self._lead = list(suffixes), len(suffixes), width, prefix, lead
        self._cache, self._packing = cache, packing
        self._made: dict[int, Tensor] = {}

    def call(self, call: Call, layout: list[tuple[Kind, ...]], rows: int) -> Call:
        """A block's arguments for the lead and the first `rows` rows.

        Raises:
            LensFVError: the block takes no mask, so rows could not be told apart.
        """
        kinds = iter(layout)
        if not any({"query", "key"} <= set(dims) for dims in layout):
            raise LensFVError("branch: a block is called without a mask, so rows cannot be told apart")

        return call.map(lambda leaf: self._changed(leaf, kinds, rows))

    def _changed(self, leaf: Any, kinds: Iterator[tuple[Kind, ...]], rows: int) -> Any:
        if isinstance(leaf, DynamicCache):
            return self._cache
        return self._tiled(leaf, next(kinds), rows) if isinstance(leaf, Tensor) else leaf

    def _tiled(self, leaf: Tensor, kinds: tuple[Kind, ...], rows: int) -> Tensor:
        one = self._prefix + self._width
        if "query" in kinds and "key" in kinds:
            one_row = leaf[..., :one, :one]
            if self._packing is not None:
                return one_row
            end = rows * self._width
            return self._once(leaf, lambda: self._mask(one_row))[..., : self._lead + end, : self._prefix + end]
        for dim, kind in enumerate(kinds):
            if kind != "fixed":
                front = self._prefix if kind == "key" else self._lead
                end = front + rows * self._width
                size = self._packing.size(end) if self._packing and kind != "key" else end
                return self._once(leaf, partial(self._all_rows, leaf, dim, kind, front)).narrow(dim, 0, size)
        return leaf

    def _all_rows(self, leaf: Tensor, dim: int, kind: Kind, front: int) -> Tensor:
        """What `front` tokens and every row there may be take of a recorded argument."""
        # What goes by place is the same in all suffixes; what does not, by index, is right in the first alone.
        which = self._suffixes if kind == "token" else [0] * self._rows
        rows = [leaf.narrow(dim, self._prefix + i * self._width, self._width) for i in which]
        tiled = torch.cat([leaf.narrow(dim, 0, front), *rows], dim)
        return tiled if kind == "key" else self._packed(tiled, dim)

    def _packed(self, leaf: Tensor, dim: int) -> Tensor:
        if self._packing is None:
            return leaf
        if dim > 1:
            raise LensFVError(f"branch: a block takes a tensor of shape {tuple(leaf.shape)}, whose tokens cannot be packed")
        return self._packing.pack(leaf) if dim else self._packing.pack(leaf[None])[0]

    def _once(self, leaf: Tensor, make: Callable[[], Tensor]) -> Tensor:
        if id(leaf) not in self._made:  # the recorded calls keep their tensors alive, so an id names one of them
            self._made[id(leaf)] = make()
        return self._made[id(leaf)]

    def _mask(self, one_row: Tensor) -> Tensor:
        n, rows, width = self._prefix, self._rows, self._width
        outer = one_row.shape[:-2]
        # What the model itself writes where a token must not look: at the first token, for the last.
        blocked = one_row[..., :1, -1:] if n + width > 1 else _blocked(one_row.dtype)
        apart = one_row.new_zeros(*outer, rows * width, rows * width).copy_(blocked).reshape(*outer, rows, width, rows, width)
        each = torch.arange(rows, device=one_row.device)
        apart[..., each, :, each, :] = one_row[..., n:, n:]  # (rows, ..., width, width): every row sees itself
        suffix = torch.cat([one_row[..., n:, :n].tile(rows, 1), apart.reshape(*outer, rows * width, rows * width)], -1)
        if not self._lead:
            return suffix
        lead = torch.cat([one_row[..., :n, :n], one_row.new_zeros(*outer, n, rows * width).copy_(blocked)], -1)
        return torch.cat([lead, suffix], -2)


def _blocked(dtype: torch.dtype) -> Tensor:
    return torch.tensor(False) if dtype == torch.bool else torch.tensor(torch.finfo(dtype).min, dtype=dtype)
