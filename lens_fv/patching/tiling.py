"""Conversion of block arguments for one row into arguments for many rows."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from lens_fv.errors import LensFVError
from lens_fv.patching.calls import Call, Kind
from lens_fv.patching.packing import Packing


@dataclass(eq=False)
class Tiling:
    """The arguments of one pass: `lead` prefix tokens (all or none), then rows of `width` tokens.

    Layers share most of their arguments, and the arguments for fewer rows are the beginning of those for more rows. So each
    argument is tiled once for all rows and then cut.

    Attributes:
        suffixes: For each possible row, the index of the recorded suffix that it runs.
        width: Number of tokens per row.
        prefix: Total number of prefix tokens.
        lead: Number of prefix tokens in this pass.
        cache: Cache passed to the blocks in place of the recorded one.
        packing: Packing of the blocks' tokens, which leaves the mask for the prefix and one row unchanged. None: no packing,
            and masks that separate the rows.
    """

    suffixes: Sequence[int]
    width: int
    prefix: int
    lead: int
    cache: DynamicCache | None
    packing: Packing | None
    _tiled_leaves: dict[int, Tensor] = field(default_factory=dict[int, Tensor], init=False)

    def call(self, call: Call, layout: list[tuple[Kind, ...]], rows: int) -> Call:
        """A block's arguments for the lead and the first `rows` rows.

        Raises:
            LensFVError: the block takes no mask, so rows cannot be separated.
        """
        kinds_by_tensor = iter(layout)
        if not any({"query", "key"} <= set(dims) for dims in layout):
            raise LensFVError("branch: a block is called without a mask, so rows cannot be told apart")

        return call.map(lambda leaf: self._tiled(leaf, kinds_by_tensor, rows))

    def _tiled(self, leaf: Any, kinds_by_tensor: Iterator[tuple[Kind, ...]], rows: int) -> Any:
        if isinstance(leaf, DynamicCache):
            return self.cache
        if not isinstance(leaf, Tensor):
            return leaf
        kinds = next(kinds_by_tensor)
        one = self.prefix + self.width
        if "query" in kinds and "key" in kinds:
            one_row = leaf[..., :one, :one]
            if self.packing is not None:
                return one_row
            end = rows * self.width
            return self._once(leaf, lambda: self._mask(one_row))[..., : self.lead + end, : self.prefix + end]
        for dim, kind in enumerate(kinds):
            if kind != "fixed":
                front = self.prefix if kind == "key" else self.lead
                end = front + rows * self.width
                size = self.packing.size(end) if self.packing and kind != "key" else end
                return self._once(leaf, partial(self._all_rows, leaf, dim, kind, front)).narrow(dim, 0, size)
        return leaf

    def _all_rows(self, leaf: Tensor, dim: int, kind: Kind, front: int) -> Tensor:
        """A recorded argument, tiled for `front` tokens and all possible rows."""
        # Arguments by position are the same for all suffixes; arguments by index are correct only for the first.
        suffixes = self.suffixes if kind == "token" else [0] * len(self.suffixes)
        rows = [leaf.narrow(dim, self.prefix + i * self.width, self.width) for i in suffixes]
        tiled = torch.cat([leaf.narrow(dim, 0, front), *rows], dim)
        return tiled if kind == "key" else self._packed(tiled, dim)

    def _packed(self, leaf: Tensor, dim: int) -> Tensor:
        if self.packing is None:
            return leaf
        if dim > 1:
            raise LensFVError(f"branch: a block takes a tensor of shape {tuple(leaf.shape)}, whose tokens cannot be packed")
        return self.packing.pack(leaf) if dim else self.packing.pack(leaf[None])[0]

    def _once(self, leaf: Tensor, make: Callable[[], Tensor]) -> Tensor:
        if id(leaf) not in self._tiled_leaves:  # ids are unique, because the recorded calls keep their tensors alive
            self._tiled_leaves[id(leaf)] = make()
        return self._tiled_leaves[id(leaf)]

    def _mask(self, one_row: Tensor) -> Tensor:
        n, rows, width = self.prefix, len(self.suffixes), self.width
        outer = one_row.shape[:-2]
        # The model's own value for a masked pair: the first token as query, the last as key.
        blocked = one_row[..., :1, -1:] if n + width > 1 else _blocked(one_row.dtype)
        between = one_row.new_zeros(*outer, rows * width, rows * width).copy_(blocked).reshape(*outer, rows, width, rows, width)
        indices = torch.arange(rows, device=one_row.device)
        between[..., indices, :, indices, :] = one_row[..., n:, n:]  # (rows, ..., width, width): every row attends to itself
        suffix = torch.cat([one_row[..., n:, :n].tile(rows, 1), between.reshape(*outer, rows * width, rows * width)], -1)
        if not self.lead:
            return suffix
        lead = torch.cat([one_row[..., :n, :n], one_row.new_zeros(*outer, n, rows * width).copy_(blocked)], -1)
        return torch.cat([lead, suffix], -2)


def _blocked(dtype: torch.dtype) -> Tensor:
    return torch.tensor(False) if dtype == torch.bool else torch.tensor(torch.finfo(dtype).min, dtype=dtype)
