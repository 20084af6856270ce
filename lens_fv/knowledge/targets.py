"""Training targets: a teacher's distributions, computed once, or the tokens of a text."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_fv.core.divergence import Direction, divergence as between
from lens_fv.finetuning.loop import padded
from lens_fv.knowledge.examples import DistillationExample
from lens_fv.model.finite import plain_logits

ROWS = 512
"""Approximate number of tokens per forward pass of the teacher."""


class Target(NamedTuple):
    """Next-token distributions at the targets of one example.

    Attributes:
        logprobs: log-probabilities of some or all tokens; with `rest`, the last column holds the total of all other tokens.
        tokens: token id of each column; None if the columns are the whole vocabulary in order.
        rest: whether the last column stands for all tokens not in `tokens`.
    """

    logprobs: Float[Tensor, "targets columns"]
    tokens: Int[Tensor, "targets kept"] | None
    rest: bool


@torch.no_grad()
def teacher_targets(
    plain: Any,
    examples: Sequence[DistillationExample],
    *,
    pad: int,
    temperature: float,
    top_k: int | None,
    tick: Callable[[], None] = lambda: None,
) -> list[Target]:
    """Compute the teacher's distributions at each example's targets, with the definitions in context.

    Args:
        plain: transformers model in eval mode, without dropout.
        examples: examples that the teacher reads.
        pad: padding token id.
        temperature: softmax temperature of the distributions.
        top_k: number of most likely tokens to keep, with the rest summed into one value; None keeps all tokens.
        tick: callback after each example.

    Raises:
        LensFVError: non-finite logits.
    """
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].teacher))
    found: dict[int, Target] = {}
    while order:
        longest = len(examples[order[-1]].teacher)
        batch, order = order[-max(1, ROWS // longest) :], order[: -max(1, ROWS // longest)]
        taught = [[t + examples[i].offset - 1 for t in examples[i].targets] for i in batch]
        first = min(at[0] for at in taught)  # the tokens before it are definitions, which have no targets
        texts = padded([examples[i].teacher for i in batch], pad, plain.device)
        logits = plain_logits(plain, "what the teacher says", texts, logits_to_keep=longest - first)
        for row, i, at in zip(logits, batch, taught, strict=True):
            found[i] = _kept((row[[t - first for t in at]].float() / temperature).log_softmax(-1), top_k)
            tick()
    return [found[i] for i in range(len(examples))]


def token_targets(examples: Sequence[DistillationExample]) -> list[Target]:
    """Return the examples' own tokens as targets, as in ordinary fine-tuning on text."""
    tokens = [torch.tensor([each.student[t] for t in each.targets])[:, None] for each in examples]
    return [Target(torch.zeros(each.shape), each, rest=False) for each in tokens]


def divergence(
    logits: Float[Tensor, "targets vocab"], target: Target, *, direction: Direction, temperature: float
) -> Float[Tensor, " targets"]:
    """Compute the divergence between the student's distributions and the targets, in nats, times the squared temperature.

    The factor keeps gradients at the same scale for all temperatures (Hinton et al. 2015). With P the teacher and Q the
    student, "forward" is KL(P || Q), as in Padmanabhan et al. (2023), "reverse" is KL(Q || P), and "jsd" is the mean of the
    divergences of P and Q from their average. Tokens that were not kept enter only through their sum, so the result never
    exceeds the divergence of the full distributions.
    """
    q = (logits.float() / temperature).log_softmax(-1)
    p = target.logprobs.to(q.device)
    if target.tokens is not None:
        q = q.gather(-1, target.tokens.to(q.device))
        if target.rest:
            q = _with_rest(q)
    return between(p, q, direction) * temperature**2


def _kept(logprobs: Float[Tensor, "targets vocab"], top_k: int | None) -> Target:
    if top_k is None or top_k >= logprobs.shape[1] - 1:
        return Target(logprobs.cpu(), None, rest=False)
    kept, tokens = logprobs.topk(top_k, dim=-1)
    return Target(_with_rest(kept).cpu(), tokens.cpu(), rest=True)


def _with_rest(kept: Float[Tensor, "targets kept"]) -> Float[Tensor, "targets columns"]:
    """Append the log of the remaining probability mass, clamped to the smallest value that single precision resolves."""
    rest = (-torch.expm1(kept.logsumexp(-1, keepdim=True).clamp(max=-1e-7))).log()
    return torch.cat([kept, rest], -1)
