"""Regularisation on instruction-swapped prompts, on which a model should not change."""

import inspect
import random
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lens_fv.core.divergence import at_least_float32, divergence_of_logits
from lens_fv.errors import LensFVError
from lens_fv.finetuning.loop import padded
from lens_fv.finetuning.regularizers.hook_points import Head, HookPoints, at_positions
from lens_fv.finetuning.regularizers.settings import GuideConfig


class InstructionSwap:
    """Measure how far the student moves from its teacher on a few prompts per step, both unsteered.

    The prompts combine training inputs with other tasks' instructions, so they need no data of other tasks. The aim is that the
    instruction keeps deciding what the model does.

    Args:
        prompts: Token ids of the prompts.
        settings: Guide settings, including the number of prompts per step.
        hook_points: Hook points of the model.
        heads: Heads to compare.

    Raises:
        LensFVError: no prompts, or an empty one.
    """

    def __init__(
        self, prompts: Sequence[Sequence[int]], settings: GuideConfig, hook_points: HookPoints, heads: Sequence[Head]
    ) -> None:
        if not prompts or not all(prompts):
            raise LensFVError(
                f"guide by instruction-swapped prompts: there are {len(prompts)}, {sum(not p for p in prompts)} of them empty; "
                "give the tokens of inputs after other instructions (`instruction_swapped_prompts`)"
            )
        self._prompts, self._settings, self._hook_points, self._heads = prompts, settings, hook_points, list(heads)

    def run_teacher(
        self, model: nn.Module, inputs: Mapping[str, Tensor], fraction: float
    ) -> Callable[[nn.Module], dict[str, Tensor]]:
        """Run the teacher, the state `model` is in now, on the next prompts.

        The choice of prompts depends only on the step and its batch, so a resumed run draws the same ones.

        Returns:
            A function that runs the student on the same prompts and returns the weighted terms.
        """
        device = inputs["input_ids"].device
        rng = random.Random(f"{fraction}/{int(inputs['input_ids'].sum())}")
        rows = rng.sample(self._prompts, min(self._settings.n_swap_prompts, len(self._prompts)))
        positions = torch.tensor([len(row) - 1 for row in rows], device=device)
        batch = padded(rows, 0, device)
        teacher_logits, teacher_heads = self._run(model, batch, positions)

        def compare(student: nn.Module) -> dict[str, Tensor]:
            settings, terms = self._settings, dict[str, Tensor]()
            logits, heads = self._run(student, batch, positions)
            if logits is not None and teacher_logits is not None:
                divergence = divergence_of_logits(teacher_logits, logits, settings.direction, temperature=settings.temperature)
                terms["swap"] = settings.swap * divergence.mean()
            if self._heads:
                changes = [at_least_float32(heads[head]) - at_least_float32(teacher_heads[head]) for head in self._heads]
                distances = torch.stack([change.square().mean() for change in changes])
                terms["swap_heads"] = settings.swap_heads * distances.sum()
            return terms

        return compare

    def _run(
        self, model: nn.Module, batch: Mapping[str, Tensor], positions: Tensor
    ) -> tuple[Tensor | None, Mapping[Head, Tensor]]:
        """Return the logits at each prompt's last token, if needed, and the head outputs there."""
        logits: Tensor | None = None
        only_heads = not self._settings.swap
        with self._hook_points.reading(self._heads, positions, then_stop=only_heads) as heads:
            logits = _logits_at(model, batch, positions)
        return logits, heads


def _logits_at(model: nn.Module, batch: Mapping[str, Tensor], positions: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocab"]:
    """Compute the logits at one token per row, skipping others if possible: unembedding is a fifth of a small model's work."""
    if not any(_takes_logits_to_keep(kind) for kind in {type(module) for module in model.modules()}):
        return at_positions(model(**batch).logits, positions)
    columns, column = positions.unique(return_inverse=True)
    return at_positions(model(**batch, logits_to_keep=columns).logits, column)


@cache
def _takes_logits_to_keep(kind: type[nn.Module]) -> bool:
    """Whether a module can restrict logits to some tokens."""
    return "logits_to_keep" in inspect.signature(kind.forward).parameters
