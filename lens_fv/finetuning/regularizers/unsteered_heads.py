"""Unsteered head outputs, at the cost of one token per row in addition to a steered pass."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from lens_fv.finetuning.regularizers.hook_points import Head, HookPoints
from lens_fv.model.cache import cache_argument


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
