"""The backends by which branches run, and the trunk that each of them opens."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.errors import LensFVError
from lens_fv.model.lens_model import LensModel
from lens_fv.patching.batched import BatchedTrunk, HookedTrunk
from lens_fv.patching.loop import LoopTrunk
from lens_fv.patching.rows import Row, of_prompts
from lens_fv.patching.split import SplitPrompts
from lens_fv.patching.trunk import Trunk

Backend = Literal["rows", "masked", "batched", "loop"]
BackendChoice = Literal["auto"] | Backend
FAST_BACKENDS: tuple[Backend, ...] = ("rows", "masked", "batched")
"""Fast backends, fastest first; the loop is the fallback."""
Part = tuple[Sequence[int], Sequence[int]]
"""Indices of prompts, and of the variants of their suffixes."""


class PartedTrunk:
    """A batch of prompts from which branches start at one position each (see `Trunk`), split into several trunks.

    Args:
        prompts: All prompts.
        parts: The prompts and variants of each trunk; together they cover all, without overlap.
        make: Makes a trunk.
    """

    def __init__(self, prompts: SplitPrompts, parts: Sequence[Part], make: Callable[[SplitPrompts], Any]) -> None:
        self.width, self._n_prompts = prompts.width, len(prompts.prefixes)
        self._parts = [(*part, make(prompts.select(*part))) for part in parts]

    def run(self, rows: Sequence[Row], *, keep: bool = True) -> Float[Tensor, "prompts rows width d_model"]:
        """Return the final residual-stream states of every row. Gradients flow into the edits' values."""
        results: list[tuple[Sequence[int], list[int], Tensor]] = []
        for prompts, variants, trunk in self._parts:
            indices = [i for i, row in enumerate(rows) if row.suffix in variants]
            if indices:
                own = [Row(variants.index(rows[i].suffix), of_prompts(rows[i].edits, prompts)) for i in indices]
                results.append((prompts, indices, trunk.run(own, keep=keep)))
        first = results[0][2]
        states = first.new_zeros(self._n_prompts, len(rows), self.width, first.shape[-1])
        for prompts, indices, part in results:
            places = (torch.tensor(prompts, device=first.device)[:, None], torch.tensor(indices, device=first.device))
            states[(*places, slice(part.shape[2]))] = part
        return states


AnyTrunk = Trunk | BatchedTrunk | LoopTrunk | PartedTrunk


def open_trunk(backend: Backend, model: LensModel, prompts: SplitPrompts) -> AnyTrunk:
    """Open prompts with one backend, for branches that start where the prefixes end; see `Trunk`."""
    if backend == "loop":
        return LoopTrunk(model, prompts)
    if model.backend == "hooked":
        if backend != "batched":
            raise LensFVError(
                f"branch {model.name} by {backend!r}: a HookedTransformer takes no 4-D mask; use 'batched' or 'loop'"
            )
        variants = range(len(prompts.suffixes[0]))
        singles = [([p], variants) for p in range(len(prompts.prefixes))]
        return PartedTrunk(prompts, singles, partial(HookedTrunk, model))
    border = model.rotary_border
    if border is not None:
        patterns = _longer(prompts, border)
        sides = {long for pattern in patterns for long in pattern}
        if len(sides) == 2:
            return PartedTrunk(prompts, _one_sided(patterns), partial(open_trunk, backend, model))
        if backend == "batched" and sides == {True} and prompts.prefix <= border:
            return LoopTrunk(model, prompts)  # a prefix run by itself counts as a short text
    if backend == "batched":
        return BatchedTrunk(model, prompts)
    return Trunk(model, prompts, native=backend == "rows")


def _longer(prompts: SplitPrompts, border: int) -> list[tuple[bool, ...]]:
    """For each prompt, which of its texts (the prompt and a forced answer) are longer than `border`."""
    return [
        tuple(len(prefix) + len(suffix) > border for suffix in variants)
        for prefix, variants in zip(prompts.prefixes, prompts.suffixes, strict=True)
    ]


def _one_sided(patterns: Sequence[tuple[bool, ...]]) -> list[Part]:
    """Parts with only short or only long texts. A prompt with texts of both kinds is in two of them."""
    alike: dict[tuple[bool, ...], list[int]] = defaultdict(list)
    for p, pattern in enumerate(patterns):
        alike[pattern].append(p)
    return [
        (prompts, [a for a, long in enumerate(pattern) if long == side])
        for pattern, prompts in alike.items()
        for side in sorted(set(pattern))
    ]
