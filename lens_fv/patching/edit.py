"""One change to one forward pass."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.errors import LensFVError
from lens_fv.model.lens_model import LensModel


@dataclass(frozen=True, eq=False)
class Edit:
    """A change at the last prompt token.

    Attributes:
        layer: the layer it happens in.
        value: what is put there: `d_head` numbers for a head, `d_model` for the residual stream; or one such row a prompt.
        head: the query head whose output (`hook_z`, before the output projection) is edited; None: the residual stream
            after the layer (`hook_resid_post`).
        mode: "replace" or "add".
    """

    layer: int
    value: Float[Tensor, " width"] | Float[Tensor, "prompts width"]
    head: int | None = None
    mode: Literal["replace", "add"] = "replace"

    def check(self, model: LensModel) -> None:
        """Raise `LensFVError` if the model has no such place or the value does not fit it."""
        model.check_layer(self.layer)
        width = model.d_model if self.head is None else model.d_head
        if self.head is not None and not 0 <= self.head < model.n_heads:
            raise LensFVError(f"head {self.layer}.{self.head} of {model.name}: layers have heads 0 to {model.n_heads - 1}")
        if self.value.shape[-1] != width:
            raise LensFVError(
                f"edit at layer {self.layer}{'' if self.head is None else f', head {self.head}'} of {model.name}: "
                f"its value has {self.value.shape[-1]} numbers, the place takes {width}"
            )


Branch = Sequence[Edit]
"""The edits of one counterfactual run, all in the same forward pass."""


class LayerEdits(NamedTuple):
    """The edits of many rows at one place of one layer, stacked so that one indexed write makes them all."""

    rows: Tensor  # which branch, (n)
    heads: Tensor | None  # (n)
    values: Tensor  # (n, width) or (n, prompts, width)
    replace: Tensor  # bool, (n)

    def apply(self, x: Tensor, tokens_per_row: int) -> Tensor:
        """A copy of `x`, (prompts, tokens, [heads,] width), edited at the first token of each row."""
        at = self.rows * tokens_per_row
        values = self.values if self.values.ndim == 3 else self.values[:, None]
        values = values.transpose(0, 1).to(x.dtype)  # (prompts or 1, n, width)
        x = x.clone()
        old = x[:, at] if self.heads is None else x[:, at, self.heads]
        new = torch.where(self.replace[:, None], values, old + values)
        if self.heads is None:
            x[:, at] = new
        else:
            x[:, at, self.heads] = new
        return x


def group_edits(branches: Sequence[Branch], *, heads: bool, device: torch.device) -> dict[int, LayerEdits]:
    """The head edits (or, with `heads=False`, the residual-stream edits) of many branches by layer."""
    by_layer: dict[int, list[tuple[int, Edit]]] = defaultdict(list)
    for row, branch in enumerate(branches):
        for edit in branch:
            if (edit.head is not None) == heads:
                by_layer[edit.layer].append((row, edit))
    grouped: dict[int, LayerEdits] = {}
    for layer, found in by_layer.items():
        prompts = max((e.value.shape[0] for _, e in found if e.value.ndim == 2), default=None)
        values = [e.value if prompts is None or e.value.ndim == 2 else e.value.expand(prompts, -1) for _, e in found]
        grouped[layer] = LayerEdits(
            rows=torch.tensor([row for row, _ in found], device=device),
            heads=torch.tensor([e.head for _, e in found], device=device) if heads else None,
            values=torch.stack(values).to(device),
            replace=torch.tensor([e.mode == "replace" for _, e in found], device=device),
        )
    return grouped
