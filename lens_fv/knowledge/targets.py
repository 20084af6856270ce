"""What a student is to say: a teacher's distributions, worked out once, or the tokens of a text."""

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
"""Tokens that the teacher reads at once, about."""


class Target(NamedTuple):
    """Distributions over next tokens, one for each of a lesson's targets.

    Attributes:
        logprobs: of some tokens, or of all; with `rest`, of the rest together in a last column.
        tokens: which tokens the columns are; None: all, in order.
        rest: whether the last column stands for all tokens that are not in `tokens`.
    """

    logprobs: Float[Tensor, "targets columns"]
    tokens: Int[Tensor, "targets kept"] | None
    rest: bool


@torch.no_grad()
def teacher_targets(
    plain: Any,
    lessons: Sequence[DistillationExample],
    *,
    pad: int,
    temperature: float,
    top_k: int | None,
    tick: Callable[[], None] = lambda: None,
) -> list[Target]:
    """What a model that reads the definitions says at each lesson's targets.

    Args:
        plain: a transformers model in eval mode, without dropout.
        lessons: what it reads.
        pad: token id of padding.
        temperature: of its distributions.
        top_k: keep this many likeliest tokens, and what the rest weighs together; None: all tokens.
        tick: called after each lesson.

    Raises:
        LensFVError: logits that are not finite.
    """
    order = sorted(range(len(lessons)), key=lambda i: len(lessons[i].teacher))
    found: dict[int, Target] = {}
    while order:
        longest = len(lessons[order[-1]].teacher)
        batch, order = order[-max(1, ROWS // longest) :], order[: -max(1, ROWS // longest)]
        taught = [[t + lessons[i].offset - 1 for t in lessons[i].targets] for i in batch]
        first = min(at[0] for at in taught)  # before it stand definitions, of which nothing is asked
        texts = padded([lessons[i].teacher for i in batch], pad, plain.device)
        logits = plain_logits(plain, "what the teacher says", texts, logits_to_keep=longest - first)
        for row, i, at in zip(logits, batch, taught, strict=True):
            found[i] = _kept((row[[t - first for t in at]].float() / temperature).log_softmax(-1), top_k)
            tick()
    return [found[i] for i in range(len(lessons))]


def token_targets(lessons: Sequence[DistillationExample]) -> list[Target]:
    """The lessons' own tokens: to say them is what fine-tuning on a text teaches."""
    tokens = [torch.tensor([each.student[t] for t in each.targets])[:, None] for each in lessons]
    return [Target(torch.zeros(each.shape), each, rest=False) for each in tokens]


def divergence(
    logits: Float[Tensor, "targets vocab"], target: Target, *, direction: Direction, temperature: float
) -> Float[Tensor, " targets"]:
    """How far a student's distributions are from the targets, in nats, times the square of the temperature.

    That factor keeps gradients of one size at all temperatures (Hinton et al. 2015). With P the teacher and Q the student:
    "forward" KL(P || Q), as Padmanabhan et al. (2023) have it; "reverse" KL(Q || P); "jsd" half of each, to their mean. Of
    tokens that were not kept, only their sum counts: never more than the divergence of the whole distributions.
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
    """And what all other tokens weigh together: never less than single precision can tell from 0."""
    rest = (-torch.expm1(kept.logsumexp(-1, keepdim=True).clamp(max=-1e-7))).log()
    return torch.cat([kept, rest], -1)
