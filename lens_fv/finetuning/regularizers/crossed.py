"""Prompts other than those that are learned from, on which a model is to stay what it is."""

import inspect
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lens_fv.core.divergence import divergence_of_logits, in_single
from lens_fv.errors import LensFVError
from lens_fv.finetuning.regularizers.places import Enough, Head, Places
from lens_fv.finetuning.regularizers.settings import GuideConfig


class Crossed:
    """How far a student is from its teacher behind a few prompts a step; neither is steered.

    Made of the inputs that are learned from, behind other instructions, such prompts need no data of other tasks: what is to
    be kept is that the instruction decides.

    Args:
        prompts: token ids.
        settings: how many a step, which terms, and of the divergence.
        places: of the model.
        heads: whose outputs are compared.

    Raises:
        LensFVError: no prompts, or an empty one.
    """

    def __init__(self, prompts: Sequence[Sequence[int]], settings: GuideConfig, places: Places, heads: Sequence[Head]) -> None:
        if not prompts or not all(prompts):
            raise LensFVError(
                f"guide by crossed prompts: there are {len(prompts)}, {sum(not p for p in prompts)} of them empty; give the "
                "tokens of inputs behind other instructions (`instruction_swapped_prompts`)"
            )
        self._prompts, self._settings, self._places, self._heads = prompts, settings, places, list(heads)

    def taught(self, model: nn.Module, inputs: Mapping[str, Tensor], done: float) -> Callable[[nn.Module], dict[str, Tensor]]:
        """Ask the teacher, as which `model` acts now, about the next prompts.

        Which ones depends on the step and its batch alone, so a run that goes on draws the same.

        Returns:
            What asks the student about the same, and makes the terms of it, each with its weight.
        """
        ids = inputs["input_ids"]
        rng = random.Random(f"{done}/{int(ids.sum())}")
        rows = rng.sample(self._prompts, min(self._settings.n_crossed, len(self._prompts)))
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
            found["crossed"] = s.crossed * apart.mean()
        if self._heads:
            distances = [(in_single(own[head]) - in_single(theirs[head])).square().mean() for head in self._heads]
            found["crossed_heads"] = s.crossed_heads * torch.stack(distances).sum()
        return found

    def _said(self, model: nn.Module, batch: Mapping[str, Tensor], at: Tensor) -> tuple[Tensor | None, Mapping[Head, Tensor]]:
        """Logits behind each prompt, if they are asked for, and what heads put out there."""
        logits: Tensor | None = None
        with self._places.reading(self._heads, at, then_stop=not self._settings.crossed) as heads, suppress(Enough):
            logits = _logits_at(model, batch, at)
        return logits, heads


def _logits_at(model: nn.Module, batch: Mapping[str, Tensor], at: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocab"]:
    """At one token of each row; of the others none where that can be: the unembedding is a fifth of a small model's work."""
    rows = torch.arange(len(at), device=at.device)
    if not any(_chooses(kind) for kind in {type(module) for module in model.modules()}):
        return model(**batch).logits[rows, at]
    kept, column = at.unique(return_inverse=True)
    return model(**batch, logits_to_keep=kept).logits[rows, column]


@cache
def _chooses(kind: type[nn.Module]) -> bool:
    """Whether a module can be told which tokens' logits to work out."""
    return "logits_to_keep" in inspect.signature(kind.forward).parameters
