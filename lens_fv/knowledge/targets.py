"""Training targets: a teacher's distributions, computed once, or the tokens of a text."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_fv.finetuning.loop import padded
from lens_fv.knowledge.examples import DistillationExample
from lens_fv.model.finite import plain_logits

TOKENS_PER_PASS = 512
"""Approximate number of tokens per forward pass of the teacher."""


class Target(NamedTuple):
    """Next-token distributions at the targets of one example.

    Attributes:
        logprobs: Log-probabilities of some or all tokens; with `rest`, the last column holds the total of all other tokens.
        tokens: Token id of each column; None if the columns are the whole vocabulary in order.
        rest: Whether the last column stands for all tokens not in `tokens`.
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

    `plain` is a transformers model without dropout. With `top_k`, only that many most likely tokens are kept, and the rest is
    summed into one value. `tick` is called after each example.

    Raises:
        LensFVError: non-finite logits.
    """
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].teacher))
    targets: dict[int, Target] = {}
    while order:
        longest = len(examples[order[-1]].teacher)
        n_rows = max(1, TOKENS_PER_PASS // longest)
        batch, order = order[-n_rows:], order[:-n_rows]
        predicting = [
            [t + examples[i].offset - 1 for t in examples[i].targets] for i in batch
        ]  # a token is predicted one before
        first = min(positions[0] for positions in predicting)  # before it are definitions, without targets
        tokens = padded([examples[i].teacher for i in batch], pad, plain.device)
        logits = plain_logits(plain, "what the teacher says", tokens, logits_to_keep=longest - first)
        for row, i, positions in zip(logits, batch, predicting, strict=True):
            row_logits = row[[position - first for position in positions]].float()
            targets[i] = _most_likely((row_logits / temperature).log_softmax(-1), top_k)
            tick()
    return [targets[i] for i in range(len(examples))]


def token_targets(examples: Sequence[DistillationExample]) -> list[Target]:
    """Return the examples' own tokens as targets, as in ordinary fine-tuning on text."""
    columns = [torch.tensor([example.student[t] for t in example.targets])[:, None] for example in examples]
    return [Target(torch.zeros(tokens.shape), tokens, rest=False) for tokens in columns]


def _most_likely(logprobs: Float[Tensor, "targets vocab"], top_k: int | None) -> Target:
    if top_k is None or top_k >= logprobs.shape[1] - 1:
        return Target(logprobs.cpu(), None, rest=False)
    kept, tokens = logprobs.topk(top_k, dim=-1)
    return Target(with_rest(kept).cpu(), tokens.cpu(), rest=True)


def with_rest(kept: Float[Tensor, "targets kept"]) -> Float[Tensor, "targets columns"]:
    """Append the log of the remaining probability mass, clamped to the smallest value that single precision resolves."""
    rest = (-torch.expm1(kept.logsumexp(-1, keepdim=True).clamp(max=-1e-7))).log()
    return torch.cat([kept, rest], -1)
