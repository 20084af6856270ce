"""The plain loop: one branch, one prompt, one full forward pass with TransformerLens' own hooks.

Slow and obviously right: the oracle that the fast engine is checked against, and the way out for models it cannot run.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.model.lens_model import Hook, LensModel
from lens_fv.patching.edit import Branch, Edit


class LoopTrunk:
    """Prompts (and their continuations) whose branches are run one forward at a time."""

    def __init__(self, model: LensModel, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]) -> None:
        self.model, self.prompts, self.continuations = model, prompts, continuations
        self.width = 1 + max(map(len, continuations))

    def run(self, branches: Sequence[Branch]) -> Float[Tensor, "prompts branches suffix d_model"]:
        """See `lens_fv.patching.branches.Trunk.run`."""
        return torch.stack([torch.stack([self._one(p, b) for b in branches]) for p in range(len(self.prompts))])

    def _one(self, p: int, branch: Branch) -> Float[Tensor, "suffix d_model"]:
        model, at = self.model, len(self.prompts[p]) - 1
        tokens = torch.tensor([[*self.prompts[p], *self.continuations[p]]], device=model.device)
        seen: list[Tensor] = []

        def keep(x: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
            seen.append(x[0, at:])
            return x

        last = f"blocks.{model.n_layers - 1}.hook_resid_post"
        hooks: list[Hook] = [(_site(edit), _editor(edit, p, at)) for edit in branch]
        with model.hooks([*hooks, (last, keep)]):
            model.tl(tokens, return_type=None if model.backend == "hooked" else "logits")
        suffix = seen[-1]
        return torch.nn.functional.pad(suffix, (0, 0, 0, self.width - suffix.shape[0]))


def _site(edit: Edit) -> str:
    return f"blocks.{edit.layer}." + ("hook_resid_post" if edit.head is None else "attn.hook_z")


def _editor(edit: Edit, prompt: int, at: int) -> Callable[..., Tensor]:
    value = edit.value if edit.value.ndim == 1 else edit.value[prompt]

    def change(x: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        where = (0, at) if edit.head is None else (0, at, edit.head)
        x = x.clone()
        new = value.to(x)
        x[where] = new if edit.mode == "replace" else x[where] + new
        return x

    return change
