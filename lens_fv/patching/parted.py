"""Separate runs of short and long texts, for models with rotary embeddings that change at a certain length."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.patching.rows import Placed, Row

Tokens = Sequence[int]


class PartedTrunk:
    """A batch of prompts from which branches start at one position each (see `Trunk`), split into several trunks.

    In each trunk, either no text or every text is longer than the border (`rotary_border`), where a text is the prompt and the
    forced answer tokens. A prompt with answers on both sides of the border is in two trunks.

    Args:
        prefixes, suffixes, shared: See `Trunk`.
        border: Maximum length of a short text.
        make: Makes a trunk from selected prompts, their selected suffixes and the shared edits.
    """

    def __init__(
        self,
        prefixes: Sequence[Tokens],
        suffixes: Sequence[Sequence[Tokens]],
        shared: Placed,
        *,
        border: int,
        make: Callable[[list[Tokens], list[list[Tokens]], Placed], Any],
    ) -> None:
        self.width = max(len(suffix) for variants in suffixes for suffix in variants)
        self._prompts = len(prefixes)
        alike: dict[tuple[bool, ...], list[int]] = defaultdict(list)
        for p, pattern in enumerate(longer(prefixes, suffixes, border)):
            alike[pattern].append(p)
        self._parts: list[tuple[list[int], dict[int, int], Any]] = []
        for pattern, which in alike.items():
            for side in sorted(set(pattern)):
                here = [a for a, long in enumerate(pattern) if long == side]
                some = [[suffixes[p][a] for a in here] for p in which]
                trunk = make([prefixes[p] for p in which], some, _of_prompts(shared, which))
                self._parts.append((which, {a: i for i, a in enumerate(here)}, trunk))

    def run(self, rows: Sequence[Row], *, keep: bool = True) -> Float[Tensor, "prompts rows width d_model"]:
        """Return the final residual-stream states of every row. Gradients flow into the edits' values."""
        made: list[tuple[list[int], list[int], Tensor]] = []
        for which, variants, trunk in self._parts:
            at = [i for i, row in enumerate(rows) if row.suffix in variants]
            if at:
                own = [Row(variants[rows[i].suffix], _of_prompts(rows[i].edits, which)) for i in at]
                made.append((which, at, trunk.run(own, keep=keep)))
        first = made[0][2]
        found = first.new_zeros(self._prompts, len(rows), self.width, first.shape[-1])
        for which, at, states in made:
            prompts = torch.tensor(which, device=first.device)[:, None]
            found[prompts, torch.tensor(at, device=first.device), : states.shape[2]] = states
        return found


def longer(prefixes: Sequence[Tokens], suffixes: Sequence[Sequence[Tokens]], border: int) -> list[tuple[bool, ...]]:
    """For each prompt, which of its texts are longer than `border`."""
    return [
        tuple(len(prefix) + len(suffix) > border for suffix in variants)
        for prefix, variants in zip(prefixes, suffixes, strict=True)
    ]


def _of_prompts(placed: Placed, which: Sequence[int]) -> Placed:
    return tuple((edit.of_prompts(which), tuple(offsets[p] for p in which)) for edit, offsets in placed)
