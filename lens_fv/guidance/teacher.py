"""What is taught: by the same model without its updates, or as it was before."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from lens_fv.guidance.places import Enough, Head, Places
from lens_fv.guidance.settings import GuideSettings
from lens_fv.patching import Edit


class Teacher:
    """The model itself, its updates turned off; it has no dropout, and nothing of it is kept in memory twice.

    Args:
        settings: what is asked of it.
        places: of the model.
        edits: what steers it.
        matched: heads that are read.
        before: values that the trained parameters have while it teaches; None: updates are turned off.
    """

    def __init__(
        self,
        settings: GuideSettings,
        places: Places,
        edits: Sequence[Edit],
        matched: Sequence[Head],
        before: Mapping[str, Tensor] | None,
    ) -> None:
        self._settings, self._places, self._before = settings, places, before
        self._edits = list(edits) if settings.steer else []
        self._matched = list(matched)

    @torch.no_grad()
    def __call__(
        self, model: nn.Module, inputs: Mapping[str, Tensor], at: Int[Tensor, " rows"]
    ) -> tuple[Tensor | None, dict[Head, Tensor]]:
        """Its logits, steered, and the heads' outputs, not steered.

        Logits are "rows tokens vocab", or "rows vocab" of the last prompt tokens where these will do.

        Args:
            model: a PEFT model.
            inputs: see `Guide.loss`.
            at: last prompt token of each row.
        """
        s = self._settings
        whole = {key: inputs[key] for key in ("input_ids", "attention_mask") if key in inputs}
        # Behind the last prompt token nothing is asked, unless all tokens are.
        prompts = {key: value[:, : int(at.max()) + 1] for key, value in whole.items()}
        logits: Tensor | None = None
        heads: dict[Head, Tensor] = {}
        with self.teaching(model):
            if s.distill or s.distill_all:
                own = [] if self._edits else self._matched  # one pass will do for both
                with self._places.reading(own, at) as heads, self._places.adding(self._edits, s.steer, at):
                    found: Tensor = model(**(whole if s.distill_all else prompts)).logits
                logits = found if s.distill_all else found[torch.arange(len(at), device=at.device), at]
            if len(heads) < len(self._matched):
                with self._places.reading(self._matched, at, then_stop=True) as heads, suppress(Enough):
                    model(**prompts)
        return logits, heads

    @contextmanager
    def teaching(self, model: nn.Module) -> Iterator[None]:
        """Inside the block the model is its own teacher."""
        training = model.training
        model.eval()
        try:
            with _turned_off(model) if self._before is None else _swapped(model, self._before):
                yield
        finally:
            model.train(training)


def _turned_off(model: Any) -> Any:
    return model.disable_adapter()


@contextmanager
def _swapped(model: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside the block some parameters have other values; nothing is copied."""
    named = dict(model.named_parameters())
    now = {name: named[name].data for name in values}
    try:
        for name, value in values.items():
            named[name].data = value
        yield
    finally:
        for name, value in now.items():
            named[name].data = value
