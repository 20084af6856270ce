"""Teachers for regularisation: the model without its updates, or with those it had before the task."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from lens_fv.finetuning.regularizers.hook_points import Head, HookPoints
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
        settings: guide settings.
        places: hook locations of the model.
        edits: edits that steer the teacher.
        matched: heads to read.
        before: values of the trained parameters while the model acts as teacher; None: updates are turned off.
    """

    def __init__(
        self,
        settings: GuideConfig,
        places: HookPoints,
        edits: Sequence[Edit],
        heads: Sequence[Head],
        previous: Mapping[str, Tensor] | None,
    ) -> None:
        self._settings, self._places, self._before = settings, places, previous
        self._edits = list(edits) if settings.steer else []
        self._matched, self._plain = list(heads), UnsteeredHeads(places, heads, exact=not settings.heads_gate)

    def __call__(
        self, model: nn.Module, inputs: Mapping[str, Tensor], at: Int[Tensor, " rows"]
    ) -> tuple[Tensor | None, dict[Head, Tensor]]:
        """Return the steered logits and the unsteered head outputs; call it inside a `teaching` block.

        Logits are "rows tokens vocab", or "rows vocab" at the last prompt tokens where these suffice.

        Args:
            model: PEFT model.
            inputs: see `Guide.loss`.
            at: position of the last prompt token of each row.
        """
        s = self._settings
        # The teacher reads the student's whole input, although only the prompts matter: shorter inputs round differently,
        # and an unchanged model must match its teacher bit for bit. (A steered teacher never matches.)
        whole = {key: inputs[key] for key in ("input_ids", "attention_mask") if key in inputs}
        if not (s.distill or s.distill_all):
            return None, self._plain.by_a_pass(model, whole, at) if self._matched else {}
        asked = {key: value[:, : int(at.max()) + 1] for key, value in whole.items()}
        if s.distill_all or not self._edits:
            asked = whole
        own = [] if self._edits else self._matched  # without steering, one pass gives both logits and head outputs
        # Without a gate, rounding differences would enter the loss.
        keeps = bool(self._edits and self._matched and s.heads_gate) and self._plain.could(model, asked)
        with self._places.reading(own, at) as heads, self._places.adding(self._edits, s.steer, at):
            found = model(**asked, **({"use_cache": True} if keeps else {}))
        if len(heads) < len(self._matched):
            kept = cache_of(found) if keeps else None
            heads = self._plain.behind(model, asked if keeps else whole, at, kept)
        logits: Tensor = found.logits
        return logits if s.distill_all else logits[torch.arange(len(at), device=at.device), at], heads

    @contextmanager
    def teaching(self, model: nn.Module) -> Iterator[None]:
        """Turn the model into its own teacher inside the block, without gradients."""
        with exclusive(model, "is its own teacher for a while") as gate:
            gate.afterwards(partial(torch.set_grad_enabled, torch.is_grad_enabled()))
            eval_mode(gate, modules_of(model))
            if self._before is not None:
                _swap(gate, model, self._before)
            with torch.no_grad(), _turned_off(gate, model) if self._before is None else nullcontext():
                yield


def _turned_off(gate: Gate, model: Any) -> Any:
    for module in model.modules():
        for name in ("_disable_adapters", "_adapters_disabled"):
            if name in vars(module):
                gate.keep(vars(module), name)
    for parameter in model.parameters():
        gate.afterwards(partial(parameter.requires_grad_, parameter.requires_grad))
    return model.disable_adapter()


def _swap(gate: Gate, model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Replace the values of some parameters without copying."""
    named = dict(model.named_parameters())
    for name, value in values.items():
        gate.afterwards(partial(setattr, named[name], "data", named[name].data))
        named[name].data = value
