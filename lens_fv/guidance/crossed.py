"""Prompts other than those that are learned from, on which a model is to stay what it is."""

import random
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lens_fv.divergence import divergence_of_logits
from lens_fv.errors import LensFVError
from lens_fv.guidance.settings import GuideSettings
from lens_fv.guidance.teacher import Teacher


class Crossed:
    """The divergence of a student from its teacher behind a few prompts a step; neither is steered.

    Made of the inputs that are learned from, behind other instructions, such prompts need no data of other tasks: what is to
    be kept is that the instruction decides.

    Args:
        prompts: token ids.
        settings: how many a step, and of the divergence.

    Raises:
        LensFVError: no prompts, or an empty one.
    """

    def __init__(self, prompts: Sequence[Sequence[int]], settings: GuideSettings) -> None:
        if not prompts or not all(prompts):
            raise LensFVError(
                f"guide by crossed prompts: there are {len(prompts)}, {sum(not p for p in prompts)} of them empty; give the "
                "tokens of inputs behind other instructions (`crossed_prompts`)"
            )
        self._prompts, self._settings = prompts, settings

    def __call__(self, model: nn.Module, teacher: Teacher, inputs: Mapping[str, Tensor], done: float) -> Tensor:
        """Of the next prompts; which ones depends on the step and its batch alone, so a run that goes on draws the same."""
        ids = inputs["input_ids"]
        rng = random.Random(f"{done}/{int(ids.sum())}")
        rows = rng.sample(self._prompts, min(self._settings.n_crossed, len(self._prompts)))
        longest = max(map(len, rows))
        batch = {
            "input_ids": torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=ids.device),
            "attention_mask": torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=ids.device),
        }
        at = torch.tensor([len(row) - 1 for row in rows], device=ids.device)
        each = torch.arange(len(rows), device=ids.device)
        with torch.no_grad(), teacher.teaching(model):
            taught = model(**batch).logits[each, at]
        said = model(**batch).logits[each, at]
        s = self._settings
        return divergence_of_logits(taught, said, s.direction, temperature=s.temperature).mean()
