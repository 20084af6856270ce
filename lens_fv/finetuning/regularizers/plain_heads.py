"""What heads put out where nothing steers them, at the price of one token beside a steered pass."""

import inspect
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from lens_fv.finetuning.regularizers.places import Enough, Head, Places
from lens_fv.model.cache import cache_argument


class PlainHeads:
    """Heads' outputs at the last prompt tokens, not steered, where a steered pass over the same rows was made already.

    Steering begins at the last prompt token, so the keys and values of what stands before are those of a plain pass. That
    token runs once more behind them: one token a row instead of a pass, equal to it but for rounding.

    Whether it is equal is the model's affair (positions may be told by columns, a short window may have moved on, keys may not
    be kept at all). So the first batch, and every longer one, is read by a pass as well, and where the two differ, all that
    follow are read by a pass.

    Args:
        places: of the model.
        heads: which.
        exact: a pass reads all that it is given, to the bit as any other pass over the same does; otherwise nothing behind the
            last prompt token, which is quicker and rounded in another way.
    """

    def __init__(self, places: Places, heads: Sequence[Head], *, exact: bool) -> None:
        self._places, self._heads, self._exact = places, list(heads), exact
        self._checked, self._holds = 0, True

    def could(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> bool:
        """Whether a pass over these rows should leave its keys and values behind; rows padded on the left are left alone."""
        mask = inputs.get("attention_mask")
        return self._holds and _takes_positions(model) and (mask is None or bool(mask[:, 0].all()))

    def by_a_pass(self, model: nn.Module, inputs: Mapping[str, Tensor], at: Int[Tensor, " rows"]) -> dict[Head, Tensor]:
        """Outputs, "rows d_head" by head.

        Args:
            model: what teaches, as it teaches.
            inputs: `input_ids`, `attention_mask`.
            at: last prompt token of each row.
        """
        end = None if self._exact else int(at.max()) + 1
        with self._places.reading(self._heads, at, then_stop=True) as found, suppress(Enough):
            model(**{key: value[:, :end] for key, value in inputs.items()})
        return found

    def behind(self, model: nn.Module, inputs: Mapping[str, Tensor], at: Int[Tensor, " rows"], kept: Any) -> dict[Head, Tensor]:
        """The same.

        Args:
            model: see `by_a_pass`.
            inputs: see `by_a_pass`.
            at: see `by_a_pass`.
            kept: keys and values that a pass over the inputs left, which was steered from the last prompt tokens on; they are
                no good for anything else afterwards. None: there are none.
        """
        if kept is None:
            return self.by_a_pass(model, inputs, at)
        found, length = self._by_a_token(model, inputs, at, kept), inputs["input_ids"].shape[1]
        if length <= self._checked:
            return found
        sure, self._checked = self.by_a_pass(model, inputs, at), length
        self._holds = all(_near(found[head], sure[head]) for head in sure)
        # What is quicker also now, so that a run that goes on reads what one without a break did.
        return found if self._holds else sure

    def _by_a_token(self, model: nn.Module, inputs: Mapping[str, Tensor], at: Tensor, kept: Any) -> dict[Head, Tensor]:
        ids = inputs["input_ids"]
        before = torch.arange(ids.shape[1], device=ids.device) < at[:, None]
        seen = torch.cat([before, torch.ones_like(before[:, :1])], 1).long()
        token, first = ids.gather(1, at[:, None]), torch.zeros_like(at)
        with self._places.reading(self._heads, first, then_stop=True) as found, suppress(Enough):
            passed = cache_argument(_inner(model).forward, kept)
            model(input_ids=token, attention_mask=seen, position_ids=at[:, None], **passed)
        return found


def _takes_positions(model: Any) -> bool:
    return "position_ids" in inspect.signature(_inner(model).forward).parameters


def _inner(model: Any) -> Any:
    """The model without PEFT around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _near(one: Tensor, other: Tensor) -> bool:
    """As near as can be asked of numbers of this precision; what is wrong is further off by far."""
    return bool((one - other).norm() <= torch.finfo(one.dtype).eps ** 0.5 * other.norm())
