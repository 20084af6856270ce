"""The plain loop: one full forward pass with TransformerLens' own hooks per branch and prompt.

Slow but evidently correct: the reference for the fast methods, and the fallback for models they cannot run.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_fv.model.lens_model import Hook, LensModel
from lens_fv.patching.edit import Edit
from lens_fv.patching.rows import Placed, Row


class LoopTrunk:
    """Prompts with branches that run one forward pass at a time; see `lens_fv.patching.trunk.Trunk`."""

    def __init__(
        self,
        model: LensModel,
        prefixes: Sequence[Sequence[int]],
        suffixes: Sequence[Sequence[Sequence[int]]],
        shared: Placed = (),
    ) -> None:
        self.model, self._prefixes, self._suffixes, self._shared = model, prefixes, suffixes, shared
        self.width = max(len(suffix) for variants in suffixes for suffix in variants)

    def run(self, rows: Sequence[Row], *, keep: bool = True) -> Float[Tensor, "prompts rows width d_model"]:  # noqa: ARG002
        """Return the final residual-stream states of every row."""
        return torch.stack([torch.stack([self._one(p, row) for row in rows]) for p in range(len(self._prefixes))])

    def one_pass(self, p: int, row: Row) -> tuple[Int[Tensor, "1 pos"], list[Hook]]:
        """The tokens of a branch on one prompt, and the hooks that apply its edits."""
        start = len(self._prefixes[p])
        tokens = torch.tensor([[*self._prefixes[p], *self._suffixes[p][row.suffix]]], device=self.model.device)
        edits = (*self._shared, *row.edits)
        return tokens, [(edit.place, _editor(edit, p, start + offsets[p])) for edit, offsets in edits]

    def _one(self, p: int, row: Row) -> Float[Tensor, "width d_model"]:
        model, start = self.model, len(self._prefixes[p])
        tokens, hooks = self.one_pass(p, row)
        seen: list[Tensor] = []

        def keep(x: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
            seen.append(x[0, start:])
            return x

        with model.hooks([*hooks, (f"blocks.{model.n_layers - 1}.hook_resid_post", keep)]):
            model.tl(tokens, return_type=None if model.backend == "hooked" else "logits")
        return torch.nn.functional.pad(seen[-1], (0, 0, 0, self.width - seen[-1].shape[0]))


def _editor(edit: Edit, prompt: int, at: int) -> Callable[..., Tensor]:
    value = edit.value[prompt] if edit.value.ndim == 2 else edit.value

    def change(x: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        where = (0, at) if edit.head is None else (0, at, edit.head)
        x = x.clone()
        new = value.to(x)
        x[where] = {"replace": new.expand_as(x[where]), "add": x[where] + new, "scale": x[where] * new}[edit.mode]
        return x

    return change
