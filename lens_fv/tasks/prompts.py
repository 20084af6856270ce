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

Shuffle = Literal["none", "permutation", "derangement"]


@dataclass(frozen=True)
class PromptTemplate:
    r"""Template for writing pairs; the default is Todd et al.'s `Q: hot\nA: cold\n\nQ: big\nA:`.

    Attributes:
        query: question up to the start of the answer. It ends without a space: the space belongs to the answer,
            because most tokenizers encode the two as one token. (It may end with a line break if the answer has no space.)
        answer: text that follows the query.
        separator: text after every demonstration.
        instruction: text before everything else, in prompts with an instruction.

    Raises:
        LensFVError: a part lacks its placeholder, or the query ends with a space.

    Example:
        >>> lens_fv.PromptTemplate().write_query(lens_fv.Pair('hot', ('cold',)))
        'Q: hot\nA:'
    """

    query: str = "Q: {input}\nA:"
    answer: str = " {output}"
    separator: str = "\n\n"
    instruction: str = "{instruction}\n\n"

    def __post_init__(self) -> None:
        parts = {"query": "{input}", "answer": "{output}", "instruction": "{instruction}"}
        for part, placeholder in parts.items():
            if placeholder not in getattr(self, part):
                raise LensFVError(f"prompt template: {part} {getattr(self, part)!r} has no {placeholder}")
        if self.query[-1].isspace() and (self.query[-1] != "\n" or self.answer[0].isspace()):
            raise LensFVError(f"prompt template: query {self.query!r} ends with a blank; put it before the answer")

    # replace(), not format(): templates may contain other braces.
    def write_head(self, instruction: str | None) -> str:
        """Write the text before the first question."""
        return self.instruction.replace("{instruction}", instruction) if instruction else ""

    def write_query(self, pair: Pair) -> str:
        """Write the question about a pair's input, without the answer."""
        return self.query.replace("{input}", pair.input)

    def write_answer(self, output: str) -> str:
        """Write an answer as it follows the query, including its leading space."""
        return self.answer.replace("{output}", output)

    def write_demonstration(self, pair: Pair) -> str:
        """Write a question with its primary answer and the separator."""
        return self.write_query(pair) + self.write_answer(pair.output) + self.separator


TODD = PromptTemplate()
TEMPLATES: dict[str, PromptTemplate] = {
    "todd": TODD,
    "arrow": PromptTemplate(query="{input} ->", separator="\n"),
    "input-output": PromptTemplate(query="Input: {input}\nOutput:"),
    "natural": PromptTemplate(query="For {input} the answer is", separator=".\n", instruction="{instruction}\n"),
}


@dataclass(frozen=True)
class Prompt:
    """A text for the model and its acceptable continuations.

    Attributes:
        text: prompt text up to the start of the answer.
        answers: acceptable continuations as the template writes them (with leading space), the primary one first.
        demonstrations: pairs as shown, including any shuffling of outputs.
        query: queried pair.
    """

    text: str
    answers: tuple[str, ...]
    demonstrations: tuple[Pair, ...]
    query: Pair


def zero_shot(query: Pair, *, template: PromptTemplate = TODD, instruction: str | None = None) -> Prompt:
    """Write a prompt with the query alone."""
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
    """Write a prompt with the query after demonstrations.

    Args:
        query: queried pair.
        demonstrations: pairs to show, in order.
        template: template for the pairs.
        instruction: instruction placed before everything else.
        shuffle: "permutation" permutes the demonstrations' outputs as Todd et al. do, so that on average one stays correct;
            "derangement" leaves no output in place, and no answer correct as far as the outputs allow.
        rng: random source for the shuffle; default: `random.Random(0)`.

    Raises:
        LensFVError: derangement of a single demonstration.
    """
    shown = _shuffled(demonstrations, shuffle, rng or random.Random(0))
    return Prompt(
        text=template.write_head(instruction) + "".join(map(template.write_demonstration, shown)) + template.write_query(query),
        answers=tuple(dict.fromkeys(map(template.write_answer, query.outputs))),
        demonstrations=shown,
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
        queries: queried pairs.
        pool: pairs to draw demonstrations from; usually the training part of a split.
        n_shots: number of demonstrations per prompt.
        n_prompts: number of prompts; queries are drawn at random, none twice before all are used. Default: every query
            once, in order.
        template: template for the pairs.
        shuffle: shuffling of the demonstrations' outputs; see `few_shot`.
        instruction: instruction placed before everything else; several (None: no instruction) are used in turn.
        seed: seed of all random draws.

    Raises:
        LensFVError: the pool has too few pairs, or no query is given.
    """
    if not queries:
        raise LensFVError("asked for prompts from 0 queries; give at least one pair to ask about")
    asked = queries if n_prompts is None else list(islice(_cycle(queries, seed), n_prompts))
    given = [instruction] if isinstance(instruction, str | None) else list(instruction) or [None]
    prompts: list[Prompt] = []
    for index, query in enumerate(asked):
        rng = random.Random(f"{seed}/{index}")  # a string seed is hashed the same way on every machine
        usable = [pair for pair in pool if not _gives_away(pair, query)] if n_shots else []
        if len(usable) < n_shots:
            raise LensFVError(
                f"asked for {n_shots} shots, the pool has {len(pool)} pair{'s' * (len(pool) != 1)}, {len(usable)} of "
                f"them usable for the query {query.input!r}; ask for fewer shots or give a task with more pairs"
            )
        shown = rng.sample(usable, n_shots)
        text = given[index % len(given)] or None
        prompts.append(few_shot(query, shown, template=template, instruction=text, shuffle=shuffle, rng=rng))
    return prompts


def _cycle(queries: Sequence[Pair], seed: int) -> Iterator[Pair]:
    for turn in count():
        order = list(queries)
        random.Random(f"{seed}/queries/{turn}").shuffle(order)
        yield from order


def _gives_away(pair: Pair, query: Pair) -> bool:
    """Whether a demonstration states the fact that the query asks for; words are compared in canonical composition (NFC)."""
    given, asked = nfc(pair.input), nfc(query.input)
    return given == asked or (given in map(nfc, query.outputs) and asked in map(nfc, pair.outputs))


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
