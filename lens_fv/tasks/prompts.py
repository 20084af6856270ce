"""Prompts as in Todd et al. (2024): demonstrations followed by a query."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Literal

from lens_fv.core.choices import Count, Natural, Seed, checked
from lens_fv.core.texts import nfc
from lens_fv.errors import LensFVError
from lens_fv.tasks.task import Pair
from lens_fv.tasks.templates import TODD, PromptTemplate

Shuffle = Literal["none", "permutation", "derangement"]


@dataclass(frozen=True)
class Prompt:
    """A text for the model and its acceptable continuations.

    Attributes:
        text: Prompt text up to the start of the answer.
        answers: Acceptable continuations as the template writes them (with leading space), the primary one first.
        demonstrations: Pairs as shown, including any shuffling of outputs.
        query: Queried pair.
    """

    text: str
    answers: tuple[str, ...]
    demonstrations: tuple[Pair, ...]
    query: Pair


@checked
def zero_shot(query: Pair, *, template: PromptTemplate = TODD, instruction: str | None = None) -> Prompt:
    r"""Write a prompt with the query alone.

    Example:
        >>> lens_fv.tasks.zero_shot(lens_fv.Pair('hot', ('cold',))).text
        'Q: hot\nA:'
    """
    return few_shot(query, (), template=template, instruction=instruction)


@checked
def few_shot(
    query: Pair,
    demonstrations: Sequence[Pair],
    *,
    template: PromptTemplate = TODD,
    instruction: str | None = None,
    shuffle: Shuffle = "none",
    rng: random.Random | None = None,
) -> Prompt:
    r"""Write a prompt with the query after demonstrations.

    Args:
        query: Queried pair.
        demonstrations: Pairs to show, in order.
        template: Template for the pairs.
        instruction: Instruction placed before everything else.
        shuffle: "permutation" permutes the demonstrations' outputs as Todd et al. do, so that on average one stays correct;
            "derangement" leaves no output in place, and no answer correct as far as the outputs allow.
        rng: Random source for the shuffle; default: `random.Random(0)`.

    Raises:
        LensFVError: derangement of a single demonstration.

    Example:
        >>> query, shown = lens_fv.Pair('hot', ('cold',)), lens_fv.Pair('big', ('small',))
        >>> lens_fv.tasks.few_shot(query, [shown]).text
        'Q: big\nA: small\n\nQ: hot\nA:'
    """
    pairs = _shuffled(demonstrations, shuffle, rng or random.Random(0))
    return Prompt(
        text=template.write_head(instruction) + "".join(map(template.write_demonstration, pairs)) + template.write_query(query),
        answers=tuple(dict.fromkeys(map(template.write_answer, query.outputs))),
        demonstrations=pairs,
        query=query,
    )


@checked
def build_prompts(
    queries: Sequence[Pair],
    pool: Sequence[Pair],
    *,
    n_shots: Natural,
    n_prompts: Count | None = None,
    template: PromptTemplate = TODD,
    shuffle: Shuffle = "none",
    instruction: str | Sequence[str | None] | None = None,
    seed: Seed = 0,
) -> list[Prompt]:
    """Build prompts with demonstrations drawn from a pool, never the query itself or its reverse.

    The demonstrations of prompt `i` depend only on its query, the seed and `i`. A smaller `n_prompts` therefore gives a
    prefix of a larger one, and shuffled prompts show the same demonstrations as clean ones.

    Args:
        queries: Queried pairs.
        pool: Pairs to draw demonstrations from; usually the training part of a split.
        n_shots: Number of demonstrations per prompt.
        n_prompts: Number of prompts; queries are drawn at random, none twice before all are used. Default: every query
            once, in order.
        template: Template for the pairs.
        shuffle: Shuffling of the demonstrations' outputs; see `few_shot`.
        instruction: Instruction placed before everything else; several (None: no instruction) are used in turn.
        seed: Seed of all random draws.

    Raises:
        LensFVError: the pool has too few pairs, or no query is given.

    Example:
        >>> split = lens_fv.split_pairs(task)
        >>> prompts = lens_fv.tasks.build_prompts(split.test, split.train, n_shots=2, n_prompts=5)
        >>> [len(prompt.demonstrations) for prompt in prompts]
        [2, 2, 2, 2, 2]
    """
    if not queries:
        raise LensFVError("asked for prompts from 0 queries; give at least one pair to ask about")
    if n_prompts is not None:
        queries = list(islice(_cycle(queries, seed), n_prompts))
    instructions = [instruction] if isinstance(instruction, str | None) else list(instruction) or [None]
    prompts: list[Prompt] = []
    for index, query in enumerate(queries):
        rng = random.Random(f"{seed}/{index}")  # a string seed is hashed the same way on every machine
        usable = [pair for pair in pool if not _gives_away(pair, query)] if n_shots else []
        if len(usable) < n_shots:
            raise LensFVError(
                f"asked for {n_shots} shots, the pool has {len(pool)} pair{'s' * (len(pool) != 1)}, {len(usable)} of "
                f"them usable for the query {query.input!r}; ask for fewer shots or give a task with more pairs"
            )
        demonstrations = rng.sample(usable, n_shots)
        text = instructions[index % len(instructions)] or None
        prompts.append(few_shot(query, demonstrations, template=template, instruction=text, shuffle=shuffle, rng=rng))
    return prompts


def _cycle(queries: Sequence[Pair], seed: int) -> Iterator[Pair]:
    for turn in count():
        order = list(queries)
        random.Random(f"{seed}/queries/{turn}").shuffle(order)
        yield from order


def _gives_away(pair: Pair, query: Pair) -> bool:
    """Whether a demonstration states the fact that the query asks for; words are compared in canonical composition (NFC)."""
    word, queried = nfc(pair.input), nfc(query.input)
    return word == queried or (word in map(nfc, query.outputs) and queried in map(nfc, pair.outputs))


def _shuffled(demonstrations: Sequence[Pair], shuffle: Shuffle, rng: random.Random) -> tuple[Pair, ...]:
    pairs = tuple(demonstrations)
    if shuffle == "none" or not pairs:
        return pairs
    order = rng.sample(range(len(pairs)), len(pairs)) if shuffle == "permutation" else _derangement(pairs, rng)
    return tuple(Pair(pair.input, pairs[other].outputs) for pair, other in zip(pairs, order, strict=True))


def _derangement(pairs: Sequence[Pair], rng: random.Random) -> list[int]:
    n = len(pairs)
    if n < 2:
        raise LensFVError(f"asked for a derangement of {n} demonstration; use at least 2 shots or another shuffle")
    for _ in range(100):  # about one order in three has no fixed point, so this suffices for distinct outputs
        order = rng.sample(range(n), n)
        if all(pairs[j].output not in pairs[i].outputs for i, j in enumerate(order)):
            return order
    # Few distinct outputs: place equal ones side by side and rotate the row by the longest run. This moves every output,
    # and leaves as few as possible equal to the old ones.
    labels = [pair.output for pair in pairs]
    rank = {label: rng.random() for label in sorted(set(labels))}
    row = sorted(rng.sample(range(n), n), key=lambda i: rank[labels[i]])
    turn = max(map(labels.count, labels)) % n or 1
    return [other for _, other in sorted(zip(row, row[turn:] + row[:turn], strict=True))]
