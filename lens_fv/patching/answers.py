"""How likely the right answers become under each branch."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_fv.model.lens_model import LensModel
from lens_fv.patching.edit import Branch
from lens_fv.patching.readout import logit_blocks
from lens_fv.patching.run import Method, run_branches
from lens_fv.progress import progress_bar
from lens_fv.tasks import EncodedPrompt


class AnswerScores(NamedTuple):
    """What every branch makes of every prompt's acceptable answers; the best of them counts.

    Attributes:
        top1, top3: an acceptable answer's first token is the likeliest, or among the three likeliest.
        full: every token of an acceptable answer is the likeliest one, given those before it: what greedy decoding writes.
        logprob: log-probability of the whole answer, in nats.
    """

    top1: Bool[Tensor, "prompts branches"]
    top3: Bool[Tensor, "prompts branches"]
    full: Bool[Tensor, "prompts branches"]
    logprob: Float[Tensor, "prompts branches"]


@torch.no_grad()
def score_answers(
    model: LensModel,
    prompts: Sequence[EncodedPrompt],
    branches: Sequence[Branch],
    *,
    method: Method = "auto",
    batch_size: int = 16,
    what: str = "scoring",
    progress: bool = False,
) -> AnswerScores:
    """Score all branches on all prompts. Edits in `branches` must be the same for every prompt.

    Args:
        model: the model.
        prompts: encoded prompts with their acceptable answers.
        branches: counterfactual runs; an empty one is the plain model.
        method: see `open_trunk`.
        batch_size: prompt-answer pairs that run together.
        what: the progress bar's label.
        progress: draw it.
    """
    # Of like length together, so that little is padding.
    items = sorted(
        ((p, answer) for p, prompt in enumerate(prompts) for answer in prompt.answers),
        key=lambda item: (len(prompts[item[0]].tokens), len(item[1])),
    )
    shape = (len(prompts), len(branches))
    rank = torch.full(shape, torch.iinfo(torch.long).max)
    full, logprob = torch.zeros(shape, dtype=torch.bool), torch.full(shape, -torch.inf)
    starts = range(0, len(items), batch_size)
    with progress_bar(what, len(starts), show=progress) as step:
        for start in starts:
            batch = items[start : start + batch_size]
            resid = run_branches(
                model,
                [prompts[p].tokens for p, _ in batch],
                branches,
                [answer[:-1] for _, answer in batch],
                method=method,
            )
            for (p, answer), states in zip(batch, resid, strict=True):
                ranks, logprobs = _ranks(model, states[:, : len(answer)], answer)
                rank[p] = rank[p].minimum(ranks[:, 0])
                full[p] |= (ranks == 0).all(1)
                logprob[p] = logprob[p].maximum(logprobs.sum(1))
            step()
    return AnswerScores(rank == 0, rank < 3, full, logprob)


def _ranks(model: LensModel, resid: Float[Tensor, "branches answer d_model"], answer: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Rank (0 is the likeliest) and log-probability of each answer token under each branch."""
    ids = torch.tensor(answer, device=resid.device).repeat(len(resid))
    ranks, logprobs = [], []
    for at, logits in logit_blocks(model, resid):
        own = logits.gather(1, ids[at, None])
        ranks.append((logits > own).sum(1))
        logprobs.append(own[:, 0] - logits.logsumexp(1))
    shape = (len(resid), len(answer))
    return torch.cat(ranks).reshape(shape).cpu(), torch.cat(logprobs).reshape(shape).cpu()
