"""Edits of a forward pass, and branches: the counterfactual runs they define."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_fv.core.choices import Whole, checked
from lens_fv.errors import LensFVError
from lens_fv.model.lens_model import LensModel

Site = Literal["resid_pre", "resid_post", "attn_out", "mlp_out"]
Mode = Literal["replace", "add", "scale"]
Position = Whole | tuple[int, ...]


@checked
@dataclass(frozen=True, eq=False)
class Edit:
    """An edit of one activation in a forward pass.

    Attributes:
        layer: Layer of the activation.
        value: New value, summand or factor: `d_head` numbers for a head and `d_model` otherwise, or one such row per prompt. A
            factor may also be a single number.
        head: Query head to edit at its output (`hook_z`, before the output projection); None: see `site`.
        site: Place of the edit if no head is given: the residual stream before or after the layer, or the output of its
            attention or MLP (`hook_resid_pre`, `hook_resid_post`, `hook_attn_out`, `hook_mlp_out`). Before layer 0 it is
            the embedding.
        mode: "replace", "add", or "scale" (multiply by the value).
        position: Index into the prompt, counted from its end if negative; one for all prompts or one per prompt.

    Example:
        >>> lens_fv.Edit(1, torch.zeros(model.d_head), head=2).place
        'blocks.1.attn.hook_z'
    """

    layer: Whole
    value: Float[Tensor, " width"] | Float[Tensor, "prompts width"] | Float[Tensor, ""]
    head: Whole | None = None
    site: Site = "resid_post"
    mode: Mode = "replace"
    position: Position = -1

    @property
    def place(self) -> str:
        """TransformerLens' name of the hook point."""
        return f"blocks.{self.layer}." + ("attn.hook_z" if self.head is not None else f"hook_{self.site}")

    @property
    def entry(self) -> int:
        """Index of the first block that the edit affects."""
        return self.layer + (self.head is None and self.site == "resid_post")

    def of_prompts(self, prompts: Sequence[int]) -> "Edit":
        """The same edit for a selection of prompts, in the given order."""
        if self.value.ndim < 2 and isinstance(self.position, int):
            return self  # identity shows which branches share an edit
        value = self.value[list(prompts)] if self.value.ndim == 2 else self.value
        position = self.position if isinstance(self.position, int) else tuple(self.position[i] for i in prompts)
        return replace(self, value=value, position=position)

    def check(self, model: LensModel, n_prompts: int) -> None:
        """Raise `LensFVError` if the model has no such place, or the value does not fit the place or the number of prompts."""
        model.check_layer(self.layer)
        if self.layer < 0:
            raise LensFVError(f"edit at layer {self.layer} of {model.name}: count layers from 0 to {model.n_layers - 1}")
        if self.place not in model.hook_names or (self.head is not None and self.layer not in model.attention_layers):
            lacks = model.no_heads(self.layer) if self.head is not None else f"has no hook_{self.site}"
            raise LensFVError(f"edit at {self.place} of {model.name}: its layer {self.layer} {lacks}")
        width = model.d_model if self.head is None else model.d_head
        if self.head is not None and not 0 <= self.head < model.n_heads:
            raise LensFVError(f"head {self.layer}.{self.head} of {model.name}: layers have heads 0 to {model.n_heads - 1}")
        if self.value.ndim == 0:
            if self.mode != "scale":
                raise LensFVError(f"edit at {self.place} of {model.name}: only a scale may be a single number")
        elif self.value.shape[-1] != width:
            raise LensFVError(
                f"edit at {self.place} of {model.name}: its value has {self.value.shape[-1]} numbers, the place takes {width}"
            )
        if self.value.ndim == 2 and self.value.shape[0] != n_prompts:
            raise LensFVError(f"edit at {self.place}: it has values for {self.value.shape[0]} prompts, there are {n_prompts}")


@checked
@dataclass(frozen=True, eq=False)
class Branch:
    """One counterfactual run of every prompt.

    Attributes:
        edits: Edits of the same forward pass, applied in this order; empty for the unedited model.
        tokens: Answer to score after the prompt; all tokens but its last are teacher-forced. One for all prompts, or one per
            prompt.
        start: Position from which the branch runs separately; default: that of its first edit, or the last prompt token.

    Example:
        >>> edit = lens_fv.Edit(1, torch.ones(model.d_model), mode='add')
        >>> len(lens_fv.Branch((edit,)).edits)
        1
    """

    edits: tuple[Edit, ...] = ()
    tokens: tuple[int, ...] | tuple[tuple[int, ...], ...] = ()
    start: Position | None = None

    @classmethod
    def of(cls, branch: "BranchLike") -> "Branch":
        """Return a branch unchanged, or make one from a list of edits."""
        return branch if isinstance(branch, Branch) else cls(tuple(branch))

    def answers(self, n_prompts: int) -> tuple[tuple[int, ...], ...]:
        """The answer's tokens for each prompt.

        Raises:
            LensFVError: the number of answers differs from the number of prompts.
        """
        if not self.tokens or isinstance(self.tokens[0], int):
            return (self.tokens,) * n_prompts  # pyright: ignore[reportReturnType]
        if len(self.tokens) != n_prompts:
            raise LensFVError(f"a branch has answers for {len(self.tokens)} prompts, there are {n_prompts}")
        return self.tokens  # pyright: ignore[reportReturnType]

    def starts(self, lengths: Sequence[int]) -> tuple[int, ...]:
        """The position in each prompt at which the branch starts.

        Raises:
            LensFVError: a position lies outside its prompt, or the start comes after the first edit.
        """
        first = [length - 1 for length in lengths]
        for edit in self.edits:
            first = [min(a, b) for a, b in zip(first, positions(edit.position, lengths, f"edit at {edit.place}"), strict=True)]
        if self.start is None:
            return tuple(first)
        starts = positions(self.start, lengths, "branch")
        for start, edited in zip(starts, first, strict=True):
            if start > edited:
                raise LensFVError(f"a branch from position {start}: it edits position {edited}; start there or before")
        return starts


BranchLike = Branch | Sequence[Edit]


def placed(edits: Sequence[Edit], lengths: Sequence[int], starts: Sequence[int]) -> tuple[tuple[Edit, tuple[int, ...]], ...]:
    """Edits with their distance from the start of the branch, for each prompt."""
    places = [positions(edit.position, lengths, f"edit at {edit.place}") for edit in edits]
    offsets = [tuple(at - start for at, start in zip(place, starts, strict=True)) for place in places]
    return tuple(zip(edits, offsets, strict=True))


def positions(position: Position, lengths: Sequence[int], context: str) -> tuple[int, ...]:
    """Convert a position into a non-negative index into each prompt.

    Raises:
        LensFVError: the position lies outside a prompt, or is missing for some prompt.
    """
    by_prompt = (position,) * len(lengths) if isinstance(position, int) else position
    if len(by_prompt) != len(lengths):
        raise LensFVError(f"{context}: {len(by_prompt)} positions for {len(lengths)} prompts; give one for all or one each")
    for at, length in zip(by_prompt, lengths, strict=True):
        if not -length <= at < length:
            raise LensFVError(f"{context}: position {at} of a prompt of {length} tokens")
    return tuple(at % length for at, length in zip(by_prompt, lengths, strict=True))


def check_branches(model: LensModel, branches: Sequence[Branch], n_prompts: int) -> None:
    """Raise `LensFVError` for the first edit that does not fit the model, or has a value that is not finite or too large."""
    edits = {id(edit): edit for branch in branches for edit in branch.edits}.values()
    for edit in edits:
        edit.check(model, n_prompts)
    by_device = groupby(edits, lambda edit: edit.value.device)
    if all(bool(_fits(model, [edit.value for edit in group]).all()) for _, group in by_device):
        return
    wrong = next(edit for edit in edits if not _fits(model, [edit.value]).all())
    context = f"edit at {wrong.place}" + (f", head {wrong.head}" if wrong.head is not None else "")
    if not wrong.value.isfinite().all():
        raise LensFVError(f"{context}: its value is not finite; look where it was measured")
    largest, dtype = float(wrong.value.detach().abs().max()), str(model.dtype).removeprefix("torch.")
    raise LensFVError(f"{context}: its value reaches {largest:.0e}, which {dtype} or a norm in it cannot hold; lower its scale")


def _fits(model: LensModel, values: Sequence[Tensor]) -> Bool[Tensor, " numbers"]:
    """Which numbers the model's data type can represent, and a norm can square without overflow."""
    numbers = torch.cat([value.detach().reshape(-1) for value in values]).to(model.dtype)
    return (numbers if numbers.dtype == torch.float64 else numbers.float()).square().isfinite()
