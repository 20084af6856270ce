"""Scores of acceptable answers under each branch."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_fv.core.choices import Count, checked
from lens_fv.core.progress import progress_bar
from lens_fv.model.lens_model import LensModel
from lens_fv.patching.backends import BackendChoice
from lens_fv.patching.edit import Branch, Edit
from lens_fv.patching.readout import answer_ranks
from lens_fv.patching.run import OpenPrompts
from lens_fv.tasks import EncodedPrompt

LONG = 32
"""Mean number of tokens above which prompts count as long."""


class AnswerScores(NamedTuple):
    """Scores of every prompt under every branch; the best acceptable answer counts.

    Attributes:
        top1, top3: Whether an acceptable answer's first token is the likeliest, or among the three likeliest. Among equally
            likely tokens the lowest id ranks first, because greedy decoding takes it (see `token_ranks`).
        exact_match: Whether greedy decoding produces an acceptable answer: each token is the likeliest given those before it.
        logprob: Log-probability of the whole answer, in nats.
    """

    top1: Bool[Tensor, "prompts branches"]
    top3: Bool[Tensor, "prompts branches"]
    exact_match: Bool[Tensor, "prompts branches"]
    logprob: Float[Tensor, "prompts branches"]


class ScoredAnswer(NamedTuple):
    """Scores of one answer under every branch.

    Attributes:
        prompt, answer: Indices of the prompt and of the answer among its acceptable ones.
        ranks: Rank of each token; 0 is the token of greedy decoding (see `token_ranks`).
        logprobs: Log-probability of each token, in nats.
    """

    prompt: int
    answer: int
    ranks: Float[Tensor, "branches tokens"]
    logprobs: Float[Tensor, "branches tokens"]


@checked
@torch.no_grad()
def score_answers(
    model: LensModel,
    prompts: Sequence[EncodedPrompt],
    branches: Sequence[Sequence[Edit]],
    *,
    backend: BackendChoice = "auto",
    batch_size: Count = 16,
    what: str = "scoring",
    progress: bool = False,
) -> AnswerScores:
    """Score all branches on all prompts.

    Args:
        model: Model to run.
        prompts: Encoded prompts with their acceptable answers.
        branches: For each branch, its edits, with one value and position for all prompts or one per prompt. A branch without
            edits is the plain model.
        backend: See `run_branches`.
        batch_size: Number of prompts per batch.
        what: Label of the progress bar.
        progress: Show a progress bar over batches.

    Example:
        >>> prompts = lens_fv.tasks.encode_prompts(model, [lens_fv.tasks.zero_shot(pair) for pair in task.pairs[:3]])
        >>> scores = lens_fv.patching.score_answers(model, prompts, [[], vector.edits()])
        >>> scores.exact_match.shape  # prompts and branches
        torch.Size([3, 2])
    """
    answers = score_each_answer(model, prompts, branches, backend=backend, batch_size=batch_size, what=what, progress=progress)
    return _best((len(prompts), len(branches)), answers)


@checked
@torch.no_grad()
def score_each_answer(
    model: LensModel,
    prompts: Sequence[EncodedPrompt],
    branches: Sequence[Sequence[Edit]],
    *,
    backend: BackendChoice = "auto",
    batch_size: Count = 16,
    what: str = "scoring",
    progress: bool = False,
) -> Iterator[ScoredAnswer]:
    """Yield the scores of every single answer under all branches, in arbitrary order of prompts; see `score_answers`.

    Example:
        >>> prompts = lens_fv.tasks.encode_prompts(model, [lens_fv.tasks.zero_shot(pair) for pair in task.pairs[:3]])
        >>> {scored.prompt for scored in lens_fv.patching.score_each_answer(model, prompts, [[]])}
        {0, 1, 2}
    """
    # Group prompts with equally many answers of similar length, to waste little on padding. In long prompts the prompt itself
    # causes most of the padding.
    long = sum(len(p.tokens) for p in prompts) > LONG * len(prompts)

    def alike(i: int) -> tuple[int, int, int]:
        answers, length = prompts[i].answers, len(prompts[i].tokens)
        longest = max(map(len, answers))
        return (len(answers), length, longest) if long else (len(answers), longest, length)

    order = sorted(range(len(prompts)), key=alike)
    batches = [order[at : at + batch_size] for at in range(0, len(order), batch_size)]
    with progress_bar(what, len(batches), show=progress) as tick:
        for batch in batches:
            answers = [prompts[p].answers for p in batch]
            n_answers = max(map(len, answers))
            forced = [tuple(of_prompt[a] if a < len(of_prompt) else () for of_prompt in answers) for a in range(n_answers)]
            batch_edits = [tuple(edit.of_prompts(batch) for edit in edits) for edits in branches]
            rows = [Branch(edits, tokens=tokens) for tokens in forced for edits in batch_edits]
            opened = OpenPrompts(model, [prompts[p].tokens for p in batch], backend=backend)
            scores = opened.run(rows, readout=answer_ranks, keep=False).cpu()
            for p, by_answer in zip(batch, scores.unflatten(1, (n_answers, len(branches))), strict=True):
                for a, answer in enumerate(prompts[p].answers):  # prompts with fewer answers are padded
                    ranks, logprobs = by_answer[a, :, : len(answer)].unbind(-1)
                    yield ScoredAnswer(p, a, ranks, logprobs)
            tick()


@checked
@torch.no_grad()
def score_alike(model: LensModel, prompts: Sequence[EncodedPrompt], *, backend: BackendChoice = "auto") -> AnswerScores:
    """Score the plain model on prompts with common beginnings, such as the same demonstrations.

    Each common beginning runs once. The result equals `score_answers(model, prompts, [[]])`.

    Example:
        >>> split = lens_fv.split_pairs(task)
        >>> prompts = [lens_fv.tasks.few_shot(pair, split.train[:4]) for pair in split.test[:3]]
        >>> scores = lens_fv.patching.score_alike(model, lens_fv.tasks.encode_prompts(model, prompts))
        >>> scores.exact_match.shape  # prompts and branches
        torch.Size([3, 1])
    """
    return _best((len(prompts), 1), _each_alike(model, prompts, backend))


def _each_alike(model: LensModel, prompts: Sequence[EncodedPrompt], backend: BackendChoice) -> Iterator[ScoredAnswer]:
    for prefix, group in _begin_alike(prompts):
        cases = [(p, a, answer) for p in group for a, answer in enumerate(prompts[p].answers)]
        branches = [Branch(tokens=(*prompts[p].tokens[prefix:], *answer)) for p, _, answer in cases]
        opened = OpenPrompts(model, [prompts[group[0]].tokens[:prefix]], backend=backend)
        scores = opened.run(branches, readout=answer_ranks, keep=False).cpu()[0]
        for (p, a, answer), of_branch in zip(cases, scores, strict=True):
            rest = len(prompts[p].tokens) - prefix
            ranks, logprobs = of_branch[None, rest : rest + len(answer)].unbind(-1)
            yield ScoredAnswer(p, a, ranks, logprobs)


def _best(shape: tuple[int, int], answers: Iterator[ScoredAnswer]) -> AnswerScores:
    rank = torch.full(shape, torch.iinfo(torch.long).max)
    full, logprob = torch.zeros(shape, dtype=torch.bool), torch.full(shape, -torch.inf)
    for p, _, ranks, logprobs in answers:
        rank[p] = rank[p].minimum(ranks[:, 0].long())
        full[p] |= (ranks == 0).all(1)
        logprob[p] = logprob[p].maximum(logprobs.sum(1))
    return AnswerScores(rank == 0, rank < 3, full, logprob)


def _begin_alike(prompts: Sequence[EncodedPrompt]) -> list[tuple[int, list[int]]]:
    """Group prompts by common beginning, with its length in tokens: at least half of every prompt in the group."""
    groups: list[tuple[int, list[int]]] = []
    for p in sorted(range(len(prompts)), key=lambda p: prompts[p].tokens):
        tokens = prompts[p].tokens
        longest = len(tokens) - 1  # a branch needs at least one token of its own
        if groups:
            before, group = groups[-1]
            pairs = zip(tokens[:longest], prompts[group[0]].tokens[:before])
            common = next((i for i, (a, b) in enumerate(pairs) if a != b), min(longest, before))
            if 2 * common >= max(len(tokens), *(len(prompts[other].tokens) for other in group)):
                groups[-1] = (common, [*group, p])
                continue
        groups.append((max(longest, 1), [p]))
    return groups
