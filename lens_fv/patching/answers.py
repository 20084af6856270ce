"""How likely the right answers become under each branch."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_fv.model.lens_model import LensModel
from lens_fv.patching.branches import Trunk
from lens_fv.patching.edit import Branch
from lens_fv.patching.loop import LoopTrunk
from lens_fv.patching.readout import logit_blocks
from lens_fv.patching.run import Method, open_trunk, run_on
from lens_fv.progress import progress_bar
from lens_fv.tasks import EncodedPrompt

LONG = 32
"""Tokens above which a prompt counts as long."""


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


class AnswerScorer:
    """Prompts, opened once, on which branches can be scored again and again.

    Args:
        model: the model.
        prompts: encoded prompts with their acceptable answers.
        method: see `open_trunk`.
        batch_size: prompt-answer pairs that run together.
    """

    def __init__(
        self, model: LensModel, prompts: Sequence[EncodedPrompt], *, method: Method = "auto", batch_size: int = 16
    ) -> None:
        self.model, self.n_prompts = model, len(prompts)
        items = [(p, answer) for p, prompt in enumerate(prompts) for answer in prompt.answers]
        # Short prompts: answers of one length together, since padded rows cost most. Long ones: each prompt's answers
        # together, since the prompt then runs once for all of them.
        long = sum(len(p.tokens) for p in prompts) > LONG * len(prompts)
        items.sort(key=lambda i: (len(prompts[i[0]].tokens), i[0]) if long else (len(i[1]), len(prompts[i[0]].tokens)))
        self._batches = [items[at : at + batch_size] for at in range(0, len(items), batch_size)]
        self._prompts = prompts
        self._method: Method = method
        self._trunks: dict[int, Trunk | LoopTrunk] = {}

    def __len__(self) -> int:
        """The number of batches."""
        return len(self._batches)

    def _trunk(self, i: int, keep: bool) -> Trunk | LoopTrunk:
        if i in self._trunks:
            return self._trunks[i]
        tokens = [self._prompts[p].tokens for p, _ in self._batches[i]]
        trunk = open_trunk(self.model, tokens, [answer[:-1] for _, answer in self._batches[i]], method=self._method)
        if keep:
            self._trunks[i] = trunk
        return trunk

    @torch.no_grad()
    def score(self, branches: Sequence[Branch], *, keep: bool = True, tick: Callable[[], None] = lambda: None) -> AnswerScores:
        """Score all branches on all prompts.

        Args:
            branches: counterfactual runs, the same for every prompt; an empty one is the plain model.
            keep: keep the opened prompts in memory for the next call.
            tick: called after each batch.
        """
        shape = (self.n_prompts, len(branches))
        rank = torch.full(shape, torch.iinfo(torch.long).max)
        full, logprob = torch.zeros(shape, dtype=torch.bool), torch.full(shape, -torch.inf)
        for i, batch in enumerate(self._batches):
            resid = run_on(self._trunk(i, keep), branches)
            for (p, answer), states in zip(batch, resid, strict=True):
                ranks, logprobs = _ranks(self.model, states[:, : len(answer)], answer)
                rank[p] = rank[p].minimum(ranks[:, 0])
                full[p] |= (ranks == 0).all(1)
                logprob[p] = logprob[p].maximum(logprobs.sum(1))
            tick()
        return AnswerScores(rank == 0, rank < 3, full, logprob)


def score_answers(
    model: LensModel,
    prompts: Sequence[EncodedPrompt],
    branches: Sequence[Branch],
    *,
    method: Method = "auto",
    what: str = "scoring",
    progress: bool = False,
) -> AnswerScores:
    """Score all branches on all prompts, once; see `AnswerScorer`."""
    scorer = AnswerScorer(model, prompts, method=method)
    with progress_bar(what, len(scorer), show=progress) as tick:
        return scorer.score(branches, keep=False, tick=tick)


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
