"""Teachers for regularisation: the model without its updates, or with those it had before the task."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from lens_fv.finetuning.regularizers.hook_points import Head, HookPoints, at_positions
from lens_fv.finetuning.regularizers.settings import GuideConfig
from lens_fv.model.cache import cache_argument, cache_of
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


class UnsteeredHeads:
    """Read unsteered head outputs at the last prompt tokens after a steered pass over the same rows.

    Steering starts at the last prompt token, so the keys and values before it equal those of an unsteered pass. Running that
    token once more on top of them costs one token per row instead of a full pass, and gives the same result up to rounding.

    Whether this holds depends on the model: positions may be counted by columns, a short attention window may have moved on, or
    keys may not be cached at all. The first batch and every longer one are therefore checked against a full pass. If the two
    differ, all later batches use a full pass.

    Args:
        hook_points: Hook points of the model.
        heads: Heads to read.
        exact: Whether passes read the whole input, which makes them equal bit for bit to any other pass over it. Otherwise they
            stop after the last prompt token, which is faster but rounds differently.
    """

    def __init__(self, hook_points: HookPoints, heads: Sequence[Head], *, exact: bool) -> None:
        self._hook_points, self._heads, self._exact = hook_points, list(heads), exact
        self._checked_length, self._cache_works = 0, True

    def can_cache(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> bool:
        """Return whether a pass over these rows should keep its keys and values; left-padded rows are excluded."""
        mask = inputs.get("attention_mask")
        return self._cache_works and _takes_positions(model) and (mask is None or bool(mask[:, 0].all()))

    def from_full_pass(
        self, model: nn.Module, inputs: Mapping[str, Tensor], positions: Int[Tensor, " rows"]
    ) -> dict[Head, Tensor]:
        """Read the outputs by a full pass of the model in its teacher state, as "rows d_head" tensors by head."""
        end = None if self._exact else int(positions.max()) + 1
        with self._hook_points.reading(self._heads, positions, then_stop=True) as outputs:
            model(**{key: value[:, :end] for key, value in inputs.items()})
        return outputs

    def from_cache(
        self, model: nn.Module, inputs: Mapping[str, Tensor], positions: Int[Tensor, " rows"], cache: Any
    ) -> dict[Head, Tensor]:
        """Read the same outputs after a pass steered from the last prompt tokens on, reusing its keys and values if possible.

        The cache is modified and must not be reused; None if the model returned none.
        """
        if cache is None:
            return self.from_full_pass(model, inputs, positions)
        outputs, length = self._from_last_token(model, inputs, positions, cache), inputs["input_ids"].shape[1]
        if length <= self._checked_length:
            return outputs
        expected, self._checked_length = self.from_full_pass(model, inputs, positions), length
        self._cache_works = all(_near(outputs[head], expected[head]) for head in expected)
        # Use the faster result for this batch too, so that resumed and uninterrupted runs read the same values.
        return outputs if self._cache_works else expected

    def _from_last_token(
        self, model: nn.Module, inputs: Mapping[str, Tensor], positions: Tensor, cache: Any
    ) -> dict[Head, Tensor]:
        ids, column = inputs["input_ids"], positions[:, None]
        cached = torch.arange(ids.shape[1], device=ids.device) < column
        mask = torch.cat([cached, torch.ones_like(cached[:, :1])], 1).long()
        first = torch.zeros_like(positions)
        with self._hook_points.reading(self._heads, first, then_stop=True) as outputs:
            past = cache_argument(_inner(model).forward, cache)
            model(input_ids=ids.gather(1, column), attention_mask=mask, position_ids=column, **past)
        return outputs


def _takes_positions(model: Any) -> bool:
    return "position_ids" in inspect.signature(_inner(model).forward).parameters


def _inner(model: Any) -> Any:
    """Return the model without its PEFT wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _near(one: Tensor, other: Tensor) -> bool:
    """Compare up to the precision of the data type; genuine errors are far larger."""
    return bool((one - other).norm() <= torch.finfo(one.dtype).eps ** 0.5 * other.norm())
