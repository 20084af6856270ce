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
from lens_fv.patching.rows import Row
from lens_fv.patching.split import SplitPrompts


class LoopTrunk:
    """Prompts with branches that run one forward pass at a time; see `lens_fv.patching.trunk.Trunk`."""

    def __init__(self, model: LensModel, prompts: SplitPrompts) -> None:
        self.model, self.prompts, self.width = model, prompts, prompts.width

    def run(self, rows: Sequence[Row], *, keep: bool = True) -> Float[Tensor, "prompts rows width d_model"]:  # noqa: ARG002
        """Return the final residual-stream states of every row."""
        return torch.stack([torch.stack([self._one(p, row) for row in rows]) for p in range(len(self.prompts.prefixes))])

    def one_pass(self, p: int, row: Row) -> tuple[Int[Tensor, "1 pos"], list[Hook]]:
        """The tokens of a branch on one prompt, and the hooks that apply its edits."""
        prefix, suffix = self.prompts.prefixes[p], self.prompts.suffixes[p][row.suffix]
        tokens = torch.tensor([[*prefix, *suffix]], device=self.model.device)
        edits = (*self.prompts.shared, *row.edits)
        return tokens, [(edit.place, _editor(edit, p, len(prefix) + offsets[p])) for edit, offsets in edits]

    def _one(self, p: int, row: Row) -> Float[Tensor, "width d_model"]:
        tokens, hooks = self.one_pass(p, row)
        states: list[Tensor] = []
        with self.model.hooks([*hooks, self.model.last_state_hook(states)]):
            self.model.tl(tokens, return_type=None if self.model.backend == "hooked" else "logits")
        suffix = states[-1][0, len(self.prompts.prefixes[p]) :]
        return torch.nn.functional.pad(suffix, (0, 0, 0, self.width - len(suffix)))


def _editor(edit: Edit, prompt: int, at: int) -> Callable[..., Tensor]:
    value = edit.value[prompt] if edit.value.ndim == 2 else edit.value

    def change(x: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        place = (0, at) if edit.head is None else (0, at, edit.head)
        x = x.clone()
        new = value.to(x)
        x[place] = {"replace": new.expand_as(x[place]), "add": x[place] + new, "scale": x[place] * new}[edit.mode]
        return x

    return change
