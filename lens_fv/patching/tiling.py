"""Conversion of block arguments for one row into arguments for many rows."""

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

    Layers share most of their arguments, and the arguments for fewer rows are the beginning of those for more rows. So each
    argument is tiled once for all rows and then cut.

    Args:
        suffixes: For each possible row, the index of the recorded suffix that it runs.
        width: Number of tokens per row.
        prefix: Total number of prefix tokens.
        lead: Number of prefix tokens in this pass.
        cache: Cache passed to the blocks in place of the recorded one.
        packing: Packing of the blocks' tokens, which leaves the mask for the prefix and one row unchanged. None: no packing,
            and masks that separate the rows.
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
            LensFVError: the block takes no mask, so rows cannot be separated.
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
        """A recorded argument, tiled for `front` tokens and all possible rows."""
        # Arguments by position are the same for all suffixes; arguments by index are correct only for the first.
        suffixes = self._suffixes if kind == "token" else [0] * self._rows
        rows = [leaf.narrow(dim, self._prefix + i * self._width, self._width) for i in suffixes]
        tiled = torch.cat([leaf.narrow(dim, 0, front), *rows], dim)
        return tiled if kind == "key" else self._packed(tiled, dim)

    def _packed(self, leaf: Tensor, dim: int) -> Tensor:
        if self._packing is None:
            return leaf
        if dim > 1:
            raise LensFVError(f"branch: a block takes a tensor of shape {tuple(leaf.shape)}, whose tokens cannot be packed")
        return self._packing.pack(leaf) if dim else self._packing.pack(leaf[None])[0]

    def _once(self, leaf: Tensor, make: Callable[[], Tensor]) -> Tensor:
        if id(leaf) not in self._made:  # ids are unique, because the recorded calls keep their tensors alive
            self._made[id(leaf)] = make()
        return self._made[id(leaf)]

    def _mask(self, one_row: Tensor) -> Tensor:
        n, rows, width = self._prefix, self._rows, self._width
        outer = one_row.shape[:-2]
        # The model's own value for a masked pair: the first token as query, the last as key.
        blocked = one_row[..., :1, -1:] if n + width > 1 else _blocked(one_row.dtype)
        between = one_row.new_zeros(*outer, rows * width, rows * width).copy_(blocked).reshape(*outer, rows, width, rows, width)
        indices = torch.arange(rows, device=one_row.device)
        between[..., indices, :, indices, :] = one_row[..., n:, n:]  # (rows, ..., width, width): every row attends to itself
        suffix = torch.cat([one_row[..., n:, :n].tile(rows, 1), between.reshape(*outer, rows * width, rows * width)], -1)
        if not self._lead:
            return suffix
        lead = torch.cat([one_row[..., :n, :n], one_row.new_zeros(*outer, n, rows * width).copy_(blocked)], -1)
        return torch.cat([lead, suffix], -2)


def _blocked(dtype: torch.dtype) -> Tensor:
    return torch.tensor(False) if dtype == torch.bool else torch.tensor(torch.finfo(dtype).min, dtype=dtype)
