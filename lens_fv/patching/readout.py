"""Readouts: from final residual-stream states to what a metric needs, computing no more logits than necessary."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from lens_fv.model.lens_model import LensModel

MOST_LOGITS = 2**25
"""Maximum number of logits held at once: 128 MiB in single precision."""
States = Float[Tensor, "prompts branches answer d_model"]
"""Final states at the last prompt token and at each forced answer token."""
AnswerTokens = Int[Tensor, "prompts branches answer"]
"""All tokens of the answer, padded with -1 if other answers are longer."""
COLUMNS = 4096
"""Number of logits per row and block when only their sum is needed, so that a block stays in the processor's cache."""


@runtime_checkable
class Readout(Protocol):
    """A function of final states, applied to chunks of branches."""

    def __call__(self, model: LensModel, states: States, tokens: AnswerTokens) -> Tensor:
        """Return a tensor with the leading dimensions prompts and branches."""
        ...


def final_states(model: LensModel, states: States, tokens: AnswerTokens) -> States:  # noqa: ARG001
    r"""Return the states unchanged.

    Example:
        >>> prompt = model.encode('Q: hot\nA:')
        >>> states = lens_fv.run_branches(model, [prompt], [lens_fv.Branch()], readout=lens_fv.patching.final_states)
        >>> states.shape[-1] == model.d_model
        True
    """
    return states


def answer_logprobs(model: LensModel, states: States, tokens: AnswerTokens) -> Float[Tensor, "prompts branches answer"]:
    r"""Log-probability of each answer token, in nats; 0 for padding. Differentiable.

    Example:
        >>> prompt, token = model.encode('Q: hot\nA:'), model.encode(' cold', bos=False)[0]
        >>> branches = [lens_fv.Branch(tokens=(token,))]
        >>> lens_fv.run_branches(model, [prompt], branches, readout=lens_fv.patching.answer_logprobs).shape
        torch.Size([1, 1, 1])
    """
    real = tokens >= 0
    logprobs = states.new_zeros(tokens.shape, dtype=torch.float32)
    return logprobs.masked_scatter(real, token_logprobs(model, states[real], tokens[real]))


class AnswerLogits(NamedTuple):
    """A readout of selected logits at the last prompt token.

    Attributes:
        columns: Token ids, the same number for each prompt.
    """

    columns: Int[Tensor, "prompts columns"]

    def __call__(
        self,
        model: LensModel,
        states: States,
        tokens: AnswerTokens,  # noqa: ARG002
    ) -> Float[Tensor, "prompts branches columns"]:
        """Return the logits of these tokens."""
        x = model.final_norm(states[:, :, 0])
        return torch.stack([model.logits_of(x[p], ids) for p, ids in enumerate(self.columns.to(x.device))])


def answer_ranks(model: LensModel, states: States, tokens: AnswerTokens) -> Float[Tensor, "prompts branches answer 2"]:
    r"""Rank (`token_ranks`) and log-probability of each answer token; both 0 for padding.

    Example:
        >>> prompt, token = model.encode('Q: hot\nA:'), model.encode(' cold', bos=False)[0]
        >>> branches = [lens_fv.Branch(tokens=(token,))]
        >>> lens_fv.run_branches(model, [prompt], branches, readout=lens_fv.patching.answer_ranks).shape
        torch.Size([1, 1, 1, 2])
    """
    real = tokens >= 0
    ids, parts = tokens[real], [states.new_zeros(0, 2, dtype=torch.float32)]
    for at, logits in logit_blocks(model, states[real]):
        own = logits.gather(1, ids[at, None])[:, 0]
        parts.append(torch.stack([token_ranks(logits, ids[at]).to(own), own - logits.logsumexp(1)], -1))
    scores = states.new_zeros(*tokens.shape, 2, dtype=torch.float32)
    return scores.masked_scatter(real[..., None], torch.cat(parts))


def token_ranks(logits: Float[Tensor, "rows vocab"], tokens: Int[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    """Rank of one token per row: the number of tokens that greedy decoding prefers to it, so that 0 is the one it chooses.

    Preferred are tokens with a larger logit and, among equal logits, those with a lower id, because greedy decoding uses
    `torch.argmax`, which takes the first. Equal logits are common in half precision. A token with a NaN logit ranks last.

    Example:
        >>> token_ranks(torch.tensor([[1.0, 3.0, 3.0, 0.0]] * 3), torch.tensor([1, 2, 0])).tolist()
        [0, 1, 2]
    """
    own = logits.gather(1, tokens[:, None])
    equal = logits == own
    lower = (logits < own).sum(1, dtype=torch.int32)  # int32: twice as fast as the default
    if bool((equal.sum(1, dtype=torch.int32) > 1).any()):
        lower = lower + (equal & (torch.arange(logits.shape[1], device=logits.device) > tokens[:, None])).sum(1)
    return logits.shape[1] - 1 - lower.long()


def token_logprobs(
    model: LensModel, resid: Float[Tensor, "*rows d_model"], tokens: Int[Tensor, "*rows"]
) -> Float[Tensor, "*rows"]:
    """Log-probability of one token per row. Differentiable."""
    ids, flat = tokens.reshape(-1), resid.reshape(-1, resid.shape[-1])
    if torch.is_grad_enabled() and resid.requires_grad:
        losses = [cross_entropy(logits, ids[at], reduction="none") for at, logits in logit_blocks(model, flat)]
        return -torch.cat(losses).reshape(tokens.shape)
    x = model.final_norm(flat)
    # A running sum of exponentials over blocks of the vocabulary, so that the logits stay in the cache.
    top = torch.full((len(x), 1), -torch.inf, device=x.device)
    total, own = torch.zeros_like(top), torch.zeros_like(top)
    for begin in range(0, model.d_vocab, COLUMNS):
        end = min(begin + COLUMNS, model.d_vocab)
        logits = model.logits_of(x, slice(begin, end)).float()
        picked = logits.gather(1, (ids - begin).clamp(0, end - begin - 1)[:, None])
        own = torch.where(((ids >= begin) & (ids < end))[:, None], picked, own)
        higher = torch.maximum(top, logits.amax(1, keepdim=True))
        total = total * (top - higher).exp_() + logits.sub_(higher).exp_().sum(1, keepdim=True)
        top = higher
    return (own - top - total.log_()).reshape(tokens.shape)


def logit_blocks(model: LensModel, resid: Float[Tensor, "*rows d_model"]) -> Iterator[tuple[slice, Tensor]]:
    """Yield logits in blocks of rows, in single precision, each with its slice of the (flattened) rows."""
    flat = resid.reshape(-1, resid.shape[-1])
    size = max(1, MOST_LOGITS // model.d_vocab)
    for start in range(0, len(flat), size):
        at = slice(start, min(start + size, len(flat)))
        yield at, model.unembed(flat[at]).float()
