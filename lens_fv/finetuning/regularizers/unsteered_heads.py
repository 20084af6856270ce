"""Unsteered head outputs, at the cost of one token per row in addition to a steered pass."""

import inspect
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from lens_fv.finetuning.regularizers.hook_points import Head, HookPoints, StopForward
from lens_fv.model.cache import cache_argument


class UnsteeredHeads:
    """Read unsteered head outputs at the last prompt tokens after a steered pass over the same rows.

    Steering starts at the last prompt token, so the keys and values before it equal those of an unsteered pass. Running that
    token once more on top of them costs one token per row instead of a full pass, and gives the same result up to rounding.

    Whether this holds depends on the model: positions may be counted by columns, a short attention window may have moved on, or
    keys may not be cached at all. The first batch and every longer one are therefore checked against a full pass. If the two
    differ, all later batches use a full pass.

    Args:
        places: hook locations of the model.
        heads: heads to read.
        exact: whether passes read the whole input, which makes them equal bit for bit to any other pass over it. Otherwise they
            stop after the last prompt token, which is faster but rounds differently.
    """

    def __init__(self, places: HookPoints, heads: Sequence[Head], *, exact: bool) -> None:
        self._places, self._heads, self._exact = places, list(heads), exact
        self._checked, self._holds = 0, True

    def could(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> bool:
        """Return whether a pass over these rows should keep its keys and values; left-padded rows are excluded."""
        mask = inputs.get("attention_mask")
        return self._holds and _takes_positions(model) and (mask is None or bool(mask[:, 0].all()))

    def by_a_pass(self, model: nn.Module, inputs: Mapping[str, Tensor], at: Int[Tensor, " rows"]) -> dict[Head, Tensor]:
        """Read the outputs by a full pass, as "rows d_head" tensors by head.

        Args:
            model: model in its teacher state.
            inputs: `input_ids`, `attention_mask`.
            at: position of the last prompt token of each row.
        """
        end = None if self._exact else int(at.max()) + 1
        with self._places.reading(self._heads, at, then_stop=True) as found, suppress(StopForward):
            model(**{key: value[:, :end] for key, value in inputs.items()})
        return found

    def behind(self, model: nn.Module, inputs: Mapping[str, Tensor], at: Int[Tensor, " rows"], kept: Any) -> dict[Head, Tensor]:
        """Read the same outputs after a steered pass, reusing its keys and values where possible.

        Args:
            model: see `by_a_pass`.
            inputs: see `by_a_pass`.
            at: see `by_a_pass`.
            kept: keys and values from a pass over the inputs that was steered from the last prompt tokens on; they are modified
                and must not be reused. None: not available.
        """
        if kept is None:
            return self.by_a_pass(model, inputs, at)
        found, length = self._by_a_token(model, inputs, at, kept), inputs["input_ids"].shape[1]
        if length <= self._checked:
            return found
        sure, self._checked = self.by_a_pass(model, inputs, at), length
        self._holds = all(_near(found[head], sure[head]) for head in sure)
        # Use the faster result for this batch too, so that resumed and uninterrupted runs read the same values.
        return found if self._holds else sure

    def _by_a_token(self, model: nn.Module, inputs: Mapping[str, Tensor], at: Tensor, kept: Any) -> dict[Head, Tensor]:
        ids = inputs["input_ids"]
        before = torch.arange(ids.shape[1], device=ids.device) < at[:, None]
        seen = torch.cat([before, torch.ones_like(before[:, :1])], 1).long()
        token, first = ids.gather(1, at[:, None]), torch.zeros_like(at)
        with self._places.reading(self._heads, first, then_stop=True) as found, suppress(StopForward):
            passed = cache_argument(_inner(model).forward, kept)
            model(input_ids=token, attention_mask=seen, position_ids=at[:, None], **passed)
        return found


def _takes_positions(model: Any) -> bool:
    return "position_ids" in inspect.signature(_inner(model).forward).parameters


def _inner(model: Any) -> Any:
    """Return the model without its PEFT wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _near(one: Tensor, other: Tensor) -> bool:
    """Compare up to the precision of the data type; genuine errors are far larger."""
    return bool((one - other).norm() <= torch.finfo(one.dtype).eps ** 0.5 * other.norm())
