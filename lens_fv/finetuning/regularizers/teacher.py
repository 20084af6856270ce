"""Teachers for regularisation: the model without its updates, or with those it had before the task."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from lens_fv.finetuning.regularizers.hook_points import Head, HookPoints, at_positions
from lens_fv.finetuning.regularizers.settings import GuideConfig
from lens_fv.finetuning.regularizers.unsteered_heads import UnsteeredHeads
from lens_fv.model.cache import cache_of
from lens_fv.model.exclusive import exclusive, modules_of
from lens_fv.model.gate import Gate
from lens_fv.model.measuring import eval_mode
from lens_fv.patching import Edit


class Teacher:
    """The model itself with its updates turned off and without dropout, so no second copy is kept in memory.

    Args:
        settings: Guide settings.
        hook_points: Hook points of the model.
        edits: Edits that steer the teacher.
        heads: Heads to read.
        previous: Values of the trained parameters while the model acts as teacher; None: updates are turned off.
    """

    def __init__(
        self,
        settings: GuideConfig,
        hook_points: HookPoints,
        edits: Sequence[Edit],
        heads: Sequence[Head],
        previous: Mapping[str, Tensor] | None,
    ) -> None:
        self._settings, self._hook_points, self._previous = settings, hook_points, previous
        self._edits = list(edits) if settings.steer else []
        self._heads, self._unsteered = list(heads), UnsteeredHeads(hook_points, heads, exact=not settings.heads_gate)

    def __call__(
        self, model: nn.Module, inputs: Mapping[str, Tensor], positions: Int[Tensor, " rows"]
    ) -> tuple[Tensor | None, dict[Head, Tensor]]:
        """Return the steered logits and the unsteered head outputs; call it inside an `active` block.

        Logits are "rows tokens vocab", or "rows vocab" at the last prompt tokens (`positions`) where these suffice.
        """
        settings = self._settings
        # The teacher reads the student's whole input, although only the prompts matter: shorter inputs round differently,
        # and an unchanged model must match its teacher bit for bit. (A steered teacher never matches.)
        full = {key: inputs[key] for key in ("input_ids", "attention_mask") if key in inputs}
        if not (settings.distill or settings.distill_all):
            return None, self._unsteered.from_full_pass(model, full, positions) if self._heads else {}
        needed = full
        if self._edits and not settings.distill_all:
            needed = {key: value[:, : int(positions.max()) + 1] for key, value in full.items()}
        heads_in_pass = [] if self._edits else self._heads  # without steering, one pass gives both logits and head outputs
        # Without a gate, rounding differences would enter the loss.
        use_cache = bool(self._edits and self._heads and settings.heads_gate) and self._unsteered.can_cache(model, needed)
        with (
            self._hook_points.reading(heads_in_pass, positions) as heads,
            self._hook_points.adding(self._edits, settings.steer, positions),
        ):
            outputs = model(**needed, **({"use_cache": True} if use_cache else {}))
        if use_cache:
            heads = self._unsteered.from_cache(model, needed, positions, cache_of(outputs))
        elif len(heads) < len(self._heads):
            heads = self._unsteered.from_full_pass(model, full, positions)
        logits: Tensor = outputs.logits
        if not settings.distill_all:
            logits = at_positions(logits, positions)
        return logits, heads

    @contextmanager
    def active(self, model: nn.Module) -> Iterator[None]:
        """Turn the model into its own teacher inside the block, without gradients."""
        with exclusive(model, "is its own teacher for a while") as gate:
            gate.afterwards(partial(torch.set_grad_enabled, torch.is_grad_enabled()))
            eval_mode(gate, modules_of(model))
            if self._previous is not None:
                _replace_values(gate, model, self._previous)
            with torch.no_grad(), _without_updates(gate, model) if self._previous is None else nullcontext():
                yield


def _without_updates(gate: Gate, model: Any) -> Any:
    for module in model.modules():
        for name in ("_disable_adapters", "_adapters_disabled"):
            if name in vars(module):
                gate.keep(vars(module), name)
    for parameter in model.parameters():
        gate.afterwards(partial(parameter.requires_grad_, parameter.requires_grad))
    return model.disable_adapter()


def _replace_values(gate: Gate, model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Replace the values of some parameters without copying."""
    parameters = dict(model.named_parameters())
    for name, value in values.items():
        gate.afterwards(partial(setattr, parameters[name], "data", parameters[name].data))
        parameters[name].data = value
