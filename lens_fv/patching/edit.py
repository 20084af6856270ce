"""Changes to a forward pass, and the counterfactual runs they make."""

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
    """A change at one place of one forward pass.

    Attributes:
        layer: the layer it happens in.
        value: what is put there: `d_head` numbers for a head, `d_model` elsewhere; or one such row a prompt. A factor may
            also be a single number.
        head: the query head whose output (`hook_z`, before the output projection) is edited; None: see `site`.
        site: where no head is named: the residual stream before or after the layer, or what its attention or MLP writes
            (`hook_resid_pre`, `hook_resid_post`, `hook_attn_out`, `hook_mlp_out`). Before layer 0 is the embedding.
        mode: "replace", "add", or "scale" (multiply by the value).
        position: index into the prompt, negative from its end; one for all prompts or one a prompt.
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
        """The first block that runs differently."""
        return self.layer + (self.head is None and self.site == "resid_post")

    def of_prompts(self, which: Sequence[int]) -> "Edit":
        """The same edit of some of the prompts only, in this order."""
        if self.value.ndim < 2 and isinstance(self.position, int):
            return self  # which is what branches that share an edit are known by
        value = self.value[list(which)] if self.value.ndim == 2 else self.value
        position = self.position if isinstance(self.position, int) else tuple(self.position[i] for i in which)
        return replace(self, value=value, position=position)

    def check(self, model: LensModel, n_prompts: int) -> None:
        """Raise `LensFVError` if the model has no such place, or the value does not fit it or the number of prompts."""
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
        edits: all in the same forward pass, in this order; none: the model as it is.
        tokens: the answer asked about, behind the prompt: all but its last token are teacher-forced. One for all prompts, or
            one a prompt.
        start: the position from which the branch runs on its own; default: its first edit's, or the last prompt token's.
    """

    edits: tuple[Edit, ...] = ()
    tokens: tuple[int, ...] | tuple[tuple[int, ...], ...] = ()
    start: Position | None = None

    @classmethod
    def of(cls, branch: "BranchLike") -> "Branch":
        """The branch itself, or one that makes these edits."""
        return branch if isinstance(branch, Branch) else cls(tuple(branch))

    def answers(self, n_prompts: int) -> tuple[tuple[int, ...], ...]:
        """The answer's tokens, prompt by prompt.

        Raises:
            LensFVError: there are answers for another number of prompts.
        """
        if not self.tokens or isinstance(self.tokens[0], int):
            return (self.tokens,) * n_prompts  # pyright: ignore[reportReturnType]
        if len(self.tokens) != n_prompts:
            raise LensFVError(f"a branch has answers for {len(self.tokens)} prompts, there are {n_prompts}")
        return self.tokens  # pyright: ignore[reportReturnType]

    def starts(self, lengths: Sequence[int]) -> tuple[int, ...]:
        """Where the branch leaves each prompt.

        Raises:
            LensFVError: a position beyond its prompt, or a start behind the first edit.
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
    """Edits with their distance from where branches start, prompt by prompt."""
    where = [positions(edit.position, lengths, f"edit at {edit.place}") for edit in edits]
    offsets = [tuple(at - start for at, start in zip(each, starts, strict=True)) for each in where]
    return tuple(zip(edits, offsets, strict=True))


def positions(position: Position, lengths: Sequence[int], what: str) -> tuple[int, ...]:
    """A position as an index into each prompt, from 0.

    Raises:
        LensFVError: it lies outside a prompt, or there is none for some prompt.
    """
    each = (position,) * len(lengths) if isinstance(position, int) else position
    if len(each) != len(lengths):
        raise LensFVError(f"{what}: {len(each)} positions for {len(lengths)} prompts; give one for all or one each")
    for at, length in zip(each, lengths, strict=True):
        if not -length <= at < length:
            raise LensFVError(f"{what}: position {at} of a prompt of {length} tokens")
    return tuple(at % length for at, length in zip(each, lengths, strict=True))


def check_branches(model: LensModel, branches: Sequence[Branch], n_prompts: int) -> None:
    """Raise `LensFVError` for the first edit that does not fit the model, or whose value is not finite or too large for it."""
    edits = {id(edit): edit for branch in branches for edit in branch.edits}.values()
    for edit in edits:
        edit.check(model, n_prompts)
    by_device = groupby(edits, lambda edit: edit.value.device)
    if all(bool(_fits(model, [edit.value for edit in group]).all()) for _, group in by_device):
        return
    bad = next(edit for edit in edits if not _fits(model, [edit.value]).all())
    at = f"edit at {bad.place}" + (f", head {bad.head}" if bad.head is not None else "")
    if not bad.value.isfinite().all():
        raise LensFVError(f"{at}: its value is not finite; look where it was measured")
    most, dtype = float(bad.value.detach().abs().max()), str(model.dtype).removeprefix("torch.")
    raise LensFVError(f"{at}: its value reaches {most:.0e}, which {dtype} or a norm in it cannot hold; lower its scale")


def _fits(model: LensModel, values: Sequence[Tensor]) -> Bool[Tensor, " numbers"]:
    """Which numbers the model can hold, and a norm square."""
    held = torch.cat([value.detach().reshape(-1) for value in values]).to(model.dtype)
    return (held if held.dtype == torch.float64 else held.float()).square().isfinite()
