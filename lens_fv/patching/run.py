"""The way into the engine: pick how branches run on this model, run them, read them out."""

import logging
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.errors import LensFVError
from lens_fv.model.lens_model import LensModel
from lens_fv.patching.branches import Trunk
from lens_fv.patching.edit import Branch, Edit
from lens_fv.patching.loop import LoopTrunk

Method = Literal["auto", "rows", "loop"]
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
"""Largest difference in probability between the two ways, by the weights' type; half precision gets 0.03."""

log = logging.getLogger("lens_fv")


class Check(NamedTuple):
    """What a comparison of the fast engine with the plain loop found; no error where the engine did not run."""

    method: Literal["rows", "loop"]
    max_abs_error: float | None
    reason: str


def open_trunk(
    model: LensModel,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]] | None = None,
    *,
    method: Method = "auto",
) -> Trunk | LoopTrunk:
    """A batch of prompts ready to be branched at their last token.

    Args:
        model: the model.
        prompts: token ids, one list a prompt; lengths may differ.
        continuations: token ids teacher-forced behind each prompt.
        method: "rows" (the one-pass engine), "loop" (a forward pass a branch) or "auto": the engine where it has been
            checked against the loop on this model, which happens once.

    Raises:
        LensFVError: no prompt, an empty one, or one longer than the model's context.
    """
    continuations = continuations if continuations is not None else [[]] * len(prompts)
    if not prompts or not all(prompts):
        raise LensFVError(f"run {model.name}: {'an empty prompt' if prompts else 'no prompts'}; give at least one token")
    longest = max(len(p) + len(c) for p, c in zip(prompts, continuations, strict=True))
    if longest > model.n_ctx:
        raise LensFVError(f"a prompt of {longest} tokens: {model.name} has a context of {model.n_ctx}; use fewer shots")
    if method == "auto":
        method = branch_method(model)
    return (Trunk if method == "rows" else LoopTrunk)(model, prompts, continuations)


def run_branches(
    model: LensModel,
    prompts: Sequence[Sequence[int]],
    branches: Sequence[Branch],
    continuations: Sequence[Sequence[int]] | None = None,
    *,
    method: Method = "auto",
    rows_per_pass: int = 512,
) -> Float[Tensor, "prompts branches suffix d_model"]:
    """Final residual-stream states of every branch of every prompt, from the edited token on.

    Args:
        model: the model.
        prompts: token ids, one list a prompt.
        branches: for each branch its edits, all at the last prompt token; an empty one is the unedited run.
        continuations: token ids teacher-forced behind each prompt; shorter ones are padded behind.
        method: see `open_trunk`.
        rows_per_pass: most rows (branches x suffix tokens) walked through the layers together.

    Returns:
        States after the last layer; `model.unembed` turns them into logits.

    Raises:
        LensFVError: an edit that does not fit the model, or prompts that do not.
    """
    return run_on(open_trunk(model, prompts, continuations, method=method), branches, rows_per_pass=rows_per_pass)


def run_on(
    trunk: Trunk | LoopTrunk, branches: Sequence[Branch], *, rows_per_pass: int = 512
) -> Float[Tensor, "prompts branches suffix d_model"]:
    """`run_branches` on prompts that are already open, for those who come back to them."""
    model = trunk.model
    for branch in branches:
        for edit in branch:
            edit.check(model)
    size = max(1, rows_per_pass // trunk.width)
    # Sorted by layer a pass starts where its first branch leaves the trunk, and rows share as few layers as they can.
    order = sorted(range(len(branches)), key=lambda i: min((e.layer for e in branches[i]), default=model.n_layers))
    parts = [trunk.run([branches[i] for i in order[at : at + size]]) for at in range(0, len(order), size)]
    return torch.cat(parts, 1)[:, torch.tensor(order, device=model.device).argsort()]


def branch_method(model: LensModel) -> Literal["rows", "loop"]:
    """How branches run on this model: checked once, then remembered."""
    if model.branch_method is None:
        check = check_engine(model)
        model.branch_method = check.method
        if check.method == "loop":
            log.warning("%s: branches run one forward pass each: %s", model.name, check.reason)
    return "rows" if model.branch_method == "rows" else "loop"


@torch.no_grad()
def check_engine(model: LensModel, *, seed: int = 0) -> Check:
    """Compare the engine with the plain loop on a handful of random edits of two short prompts of different length."""
    rng = torch.Generator().manual_seed(seed)

    def tokens(n: int) -> list[int]:
        return torch.randint(model.d_vocab, (n,), generator=rng).tolist()

    def edit(layer: int, head: int | None) -> Edit:
        width = model.d_model if head is None else model.d_head
        return Edit(layer, torch.randn(width, generator=rng), head=head, mode="replace" if head is not None else "add")

    # Longer than a short attention window, so that a window that is cut wrongly shows.
    window = _window(model)
    length = 12 if window is None or window > 256 else min(window + 5, model.n_ctx - 4)
    prompts, answers = [tokens(length), tokens(5)], [tokens(2), tokens(1)]
    last = model.n_layers - 1
    branches: list[Branch] = [
        [],
        [edit(0, 0)],
        [edit(last, model.n_heads - 1)],
        [edit(last // 2, 0), edit(last, None)],
        [edit(last // 2, None)],
    ]
    if model.backend == "hooked":
        return Check("loop", None, "HookedTransformer takes no 4-D attention mask")
    want = LoopTrunk(model, prompts, answers).run(branches)
    try:
        got = Trunk(model, prompts, answers).run(branches)
    except Exception as e:  # whatever an unknown architecture throws, the loop still answers
        return Check("loop", None, f"the one-pass engine failed: {type(e).__name__}: {e}")
    errors = [
        (model.unembed(a[:, : 1 + len(c)]).softmax(-1) - model.unembed(b[:, : 1 + len(c)]).softmax(-1)).abs().max()
        for a, b, c in zip(got, want, answers, strict=True)
    ]
    error = float(torch.stack(errors).max())
    if not error <= TOLERANCE.get(model.dtype, 0.03):
        return Check("loop", error, f"the one-pass engine is off by {error:.1e} in probability")
    return Check("rows", error, "the one-pass engine agrees with the plain loop")


def _window(model: LensModel) -> int | None:
    config = getattr(getattr(model.tl, "original_model", None), "config", None)
    return getattr(config, "sliding_window", None)
