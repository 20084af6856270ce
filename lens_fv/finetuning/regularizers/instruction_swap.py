"""Regularisation on instruction-swapped prompts, on which a model should not change."""

import inspect
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lens_fv.core.divergence import at_least_float32, divergence_of_logits
from lens_fv.errors import LensFVError
from lens_fv.finetuning.regularizers.hook_points import Head, HookPoints, StopForward
from lens_fv.finetuning.regularizers.settings import GuideConfig


class InstructionSwap:
    """Measure how far the student moves from its teacher on a few prompts per step, both unsteered.

    The prompts combine training inputs with other tasks' instructions, so they need no data of other tasks. The aim is that the
    instruction keeps deciding what the model does.

    Args:
        prompts: token ids of the prompts.
        settings: guide settings, including the number of prompts per step.
        places: hook locations of the model.
        heads: heads to compare.

    Raises:
        LensFVError: no prompts, or an empty one.
    """

    def __init__(
        self, prompts: Sequence[Sequence[int]], settings: GuideConfig, places: HookPoints, heads: Sequence[Head]
    ) -> None:
        if not prompts or not all(prompts):
            raise LensFVError(
                f"guide by instruction-swapped prompts: there are {len(prompts)}, {sum(not p for p in prompts)} of them empty; "
                "give the tokens of inputs after other instructions (`instruction_swapped_prompts`)"
            )
        self._prompts, self._settings, self._places, self._heads = prompts, settings, places, list(heads)

    def taught(self, model: nn.Module, inputs: Mapping[str, Tensor], done: float) -> Callable[[nn.Module], dict[str, Tensor]]:
        """Run the teacher, the state `model` is in now, on the next prompts.

        The choice of prompts depends only on the step and its batch, so a resumed run draws the same ones.

        Returns:
            A function that runs the student on the same prompts and returns the weighted terms.
        """
        ids = inputs["input_ids"]
        rng = random.Random(f"{done}/{int(ids.sum())}")
        rows = rng.sample(self._prompts, min(self._settings.n_swap_prompts, len(self._prompts)))
        at = torch.tensor([len(row) - 1 for row in rows], device=ids.device)
        read = pad_sequence([torch.tensor(row, device=ids.device) for row in rows], batch_first=True)
        seen = torch.arange(read.shape[1], device=ids.device) <= at[:, None]
        batch = {"input_ids": read, "attention_mask": seen.long()}
        logits, heads = self._said(model, batch, at)
        return lambda student: self._terms(*self._said(student, batch, at), logits, heads)

    def _terms(
        self, said: Tensor | None, own: Mapping[Head, Tensor], taught: Tensor | None, theirs: Mapping[Head, Tensor]
    ) -> dict[str, Tensor]:
        s = self._settings
        found: dict[str, Tensor] = {}
        if said is not None and taught is not None:
            apart = divergence_of_logits(taught, said, s.direction, temperature=s.temperature)
            found["swap"] = s.swap * apart.mean()
        if self._heads:
            distances = [(at_least_float32(own[head]) - at_least_float32(theirs[head])).square().mean() for head in self._heads]
            found["swap_heads"] = s.swap_heads * torch.stack(distances).sum()
        return found

    def _said(self, model: nn.Module, batch: Mapping[str, Tensor], at: Tensor) -> tuple[Tensor | None, Mapping[Head, Tensor]]:
        """Return the logits at each prompt's last token, if needed, and the head outputs there."""
        logits: Tensor | None = None
        with self._places.reading(self._heads, at, then_stop=not self._settings.swap) as heads, suppress(StopForward):
            logits = _logits_at(model, batch, at)
        return logits, heads


def _logits_at(model: nn.Module, batch: Mapping[str, Tensor], at: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocab"]:
    """Compute the logits at one token per row, skipping others if possible: unembedding is a fifth of a small model's work."""
    rows = torch.arange(len(at), device=at.device)
    if not any(_chooses(kind) for kind in {type(module) for module in model.modules()}):
        return model(**batch).logits[rows, at]
    kept, column = at.unique(return_inverse=True)
    return model(**batch, logits_to_keep=kept).logits[rows, column]


@cache
def _chooses(kind: type[nn.Module]) -> bool:
    """Whether a module can restrict logits to some tokens."""
    return "logits_to_keep" in inspect.signature(kind.forward).parameters
