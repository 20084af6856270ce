"""Metrics of an answer's first token under every branch."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.errors import LensFVError
from lens_fv.model.finite import all_finite
from lens_fv.patching.edit import Branch
from lens_fv.patching.readout import AnswerLogits, answer_logprobs
from lens_fv.patching.run import OpenPrompts
from lens_fv.tasks import EncodedPrompt

Metric = Literal["prob", "logprob", "logit", "logit_diff"]


def measure(
    opened: OpenPrompts, branches: Sequence[Branch], metric: Metric, prompt: EncodedPrompt, wrong: int | None
) -> Float[Tensor, "branches columns"]:
    """The metric of one prompt's primary answer under every branch.

    Args:
        opened: The opened prompt.
        branches: Branches; the first is the reference. Each scores the answer's first token.
        metric: "prob" or "logprob" (nats) of the answer, its "logit", or "logit_diff", which returns two columns: the
            answer's logit and the wrong answer's. Only these tokens are unembedded for logits.
        prompt: The same prompt with its answers.
        wrong: Token that "logit_diff" compares with; None: the likeliest token of the first branch that begins no acceptable
            answer.
    """
    if metric in ("prob", "logprob"):
        logprob = opened.run(branches, readout=answer_logprobs, keep=False)[0]
        return logprob.exp() if metric == "prob" else logprob
    columns = [prompt.answers[0][0]]
    if metric == "logit_diff":
        columns.append(_strongest(opened, branches[0], prompt) if wrong is None else wrong)
    return opened.run(branches, readout=AnswerLogits(torch.tensor([columns])))[0].float()


def _strongest(opened: OpenPrompts, branch: Branch, prompt: EncodedPrompt) -> int:
    logits = opened.model.unembed(opened.run([branch])[0, 0, 0]).float()
    if not all_finite(logits.amax()):
        raise LensFVError(f"the strongest wrong answer of {opened.model.name}: its logits are not finite; run verify")
    logits[list(prompt.first_tokens)] = -torch.inf
    return int(logits.argmax())
