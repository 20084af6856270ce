"""Edits of many rows, stacked so that one indexed write applies all edits at a hook point."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lens_fv.patching.edit import Edit
from lens_fv.patching.packing import Packing

Placed = tuple[tuple[Edit, tuple[int, ...]], ...]
"""Edits with their token in each prompt, counted from the start of the branch."""


def of_prompts(edits: Placed, prompts: Sequence[int]) -> Placed:
    """The same edits for a selection of prompts."""
    return tuple((edit.of_prompts(prompts), tuple(offsets[p] for p in prompts)) for edit, offsets in edits)


class Row(NamedTuple):
    """One branch in a pass.

    Attributes:
        suffix: Index of the suffix that the branch runs.
        edits: Edits, each with its token in the suffix.
    """

    suffix: int
    edits: Placed

    def entry(self, n_layers: int) -> int:
        """Index of the first block in which the row differs from the trunk."""
        return min((edit.entry for edit, _ in self.edits), default=n_layers)


class Stack(NamedTuple):
    """Edits at one hook point, none of which overlap."""

    rows: Int[Tensor, " n"]
    offsets: Int[Tensor, "n prompts"]
    heads: Int[Tensor, " n"] | None
    values: Float[Tensor, "n prompts width"] | Float[Tensor, "n 1 width"]
    replaces: Bool[Tensor, "n 1 1"]
    scales: Bool[Tensor, "n 1 1"]

    def apply(self, x: Tensor, width: int, lead: int, packing: Packing | None) -> Tensor:
        """Edit a copy of `x`, (prompts, tokens, [heads,] width) or packed, with rows of `width` tokens after `lead` others."""
        at = lead + self.rows[:, None] * width + self.offsets
        prompts = torch.arange(self.offsets.shape[1], device=x.device)
        places = packing.places(prompts, at) if packing else (prompts, at)
        if self.heads is not None:
            places = (*places, self.heads[:, None])
        old, values = x[places], self.values.to(x.dtype)
        new = torch.where(self.replaces, values, torch.where(self.scales, old * values, old + values))
        return x.index_put(places, new)


class Stacks(tuple[Stack, ...]):
    """Edits at one hook point, in their order."""

    def apply(self, x: Tensor, width: int, lead: int = 0, packing: Packing | None = None) -> Tensor:
        """See `Stack.apply`."""
        for stack in self:
            x = stack.apply(x, width, lead, packing)
        return x


def stack_edits(rows: Sequence[Row], device: torch.device) -> dict[str, Stacks]:
    """The edits of all rows by hook point."""
    stacks: dict[str, list[list[tuple[int, Edit, tuple[int, ...]]]]] = defaultdict(list)
    for index, row in enumerate(rows):
        counts: Counter[tuple[str, int | None, int, int]] = Counter()
        for edit, offsets in row.edits:
            # An indexed write keeps only one value per place, so repeated edits of a place go to a later write.
            places = [(edit.place, edit.head, prompt, offset) for prompt, offset in enumerate(offsets)]
            turn = max(counts[place] for place in places)
            for place in places:
                counts[place] = turn + 1
            writes = stacks[edit.place]
            writes.extend([] for _ in range(turn + 1 - len(writes)))
            writes[turn].append((index, edit, offsets))
    return {place: Stacks(_stack(entries, device) for entries in writes) for place, writes in stacks.items()}


def _stack(entries: Sequence[tuple[int, Edit, tuple[int, ...]]], device: torch.device) -> Stack:
    edits = [edit for _, edit, _ in entries]
    width = max(edit.value.shape[-1] if edit.value.ndim else 1 for edit in edits)
    prompts = max((edit.value.shape[0] for edit in edits if edit.value.ndim == 2), default=1)
    values = [(e.value if e.value.ndim == 2 else e.value.reshape(1, -1)).expand(prompts, width) for e in edits]
    return Stack(
        rows=torch.tensor([row for row, _, _ in entries], device=device),
        offsets=torch.tensor([offsets for _, _, offsets in entries], device=device),
        heads=None if edits[0].head is None else torch.tensor([edit.head for edit in edits], device=device),
        values=torch.stack([v.to(device) for v in values]),
        replaces=torch.tensor([edit.mode == "replace" for edit in edits], device=device)[:, None, None],
        scales=torch.tensor([edit.mode == "scale" for edit in edits], device=device)[:, None, None],
    )
