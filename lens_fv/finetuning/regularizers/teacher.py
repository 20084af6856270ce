"""What is taught: by the same model without its updates, or as it was before."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from lens_fv.finetuning.regularizers.places import Head, Places
from lens_fv.finetuning.regularizers.plain_heads import PlainHeads
from lens_fv.finetuning.regularizers.settings import GuideConfig
from lens_fv.model.cache import cache_of
from lens_fv.model.exclusive import exclusive, modules_of
from lens_fv.model.gate import Gate
from lens_fv.model.measuring import eval_mode
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
        settings: GuideConfig,
        places: Places,
        edits: Sequence[Edit],
        matched: Sequence[Head],
        before: Mapping[str, Tensor] | None,
    ) -> None:
        self._settings, self._places, self._before = settings, places, before
        self._edits = list(edits) if settings.steer else []
        self._matched, self._plain = list(matched), PlainHeads(places, matched, exact=not settings.heads_gate)

    def __call__(
        self, model: nn.Module, inputs: Mapping[str, Tensor], at: Int[Tensor, " rows"]
    ) -> tuple[Tensor | None, dict[Head, Tensor]]:
        """Its logits, steered, and the heads' outputs, not steered; inside a block of `teaching`.

        Logits are "rows tokens vocab", or "rows vocab" of the last prompt tokens where these will do.

        Args:
            model: a PEFT model.
            inputs: see `Guide.loss`.
            at: last prompt token of each row.
        """
        s = self._settings
        # All that the student reads, though nothing is asked behind the prompts: fewer tokens would be rounded in another way,
        # and an unchanged model has to be its teacher to the bit. A steered one never is.
        whole = {key: inputs[key] for key in ("input_ids", "attention_mask") if key in inputs}
        if not (s.distill or s.distill_all):
            return None, self._plain.by_a_pass(model, whole, at) if self._matched else {}
        asked = {key: value[:, : int(at.max()) + 1] for key, value in whole.items()}
        if s.distill_all or not self._edits:
            asked = whole
        own = [] if self._edits else self._matched  # one pass will do for both
        # Without a gate a difference in rounding would be a term.
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
        """Inside the block the model is its own teacher, without gradients."""
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
    """Give some parameters other values; nothing is copied."""
    named = dict(model.named_parameters())
    for name, value in values.items():
        gate.afterwards(partial(setattr, named[name], "data", named[name].data))
        named[name].data = value
