"""Prompts as in Todd et al. (2024): demonstrations, then a query that the model has to answer."""

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
    r"""How pairs are written; the default is Todd et al.'s `Q: hot\nA: cold\n\nQ: big\nA:`.

    Attributes:
        query: a question, up to where the answer starts. It ends without a blank: the blank belongs to the answer,
            which most tokenizers write as one token with it. (A line break will do if the answer has no blank in front.)
        answer: what follows the query.
        separator: stands after every demonstration.
        instruction: stands before everything else, if a prompt has an instruction.

    Raises:
        LensFVError: a part lacks its placeholder, or the query ends with a blank.
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

    # replace(), not format(): templates may hold other braces.
    def write_head(self, instruction: str | None) -> str:
        """What stands before everything else."""
        return self.instruction.replace("{instruction}", instruction) if instruction else ""

    def write_query(self, pair: Pair) -> str:
        """The question about a pair's input, without answer."""
        return self.query.replace("{input}", pair.input)

    def write_answer(self, output: str) -> str:
        """An answer as it follows the query, its leading blank included."""
        return self.answer.replace("{output}", output)

    def write_demonstration(self, pair: Pair) -> str:
        """A question with its primary answer and the separator."""
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
    """A text for the model and what it should say next.

    Attributes:
        text: ends where the answer starts.
        answers: acceptable continuations as the template writes them (leading blank included), the primary one first.
        demonstrations: the pairs as shown, so with shuffled outputs if they were shuffled.
        query: the pair asked about.
    """

    text: str
    answers: tuple[str, ...]
    demonstrations: tuple[Pair, ...]
    query: Pair


def zero_shot(query: Pair, *, template: PromptTemplate = TODD, instruction: str | None = None) -> Prompt:
    """The query alone, in its template."""
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
    """The query after demonstrations.

    Args:
        query: the pair asked about.
        demonstrations: in the order in which they are shown.
        template: how pairs are written.
        instruction: a sentence in front.
        shuffle: "permutation" shuffles the demonstrations' outputs as Todd et al. do: on average one stays correct.
            "derangement" leaves none in its place, nor any answer correct as far as the outputs allow.
        rng: source of the shuffle; default: `random.Random(0)`.

    Raises:
        LensFVError: a derangement of a single demonstration.
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
    """Prompts whose demonstrations are drawn from a pool, never the query itself nor its reverse.

    What prompt `i` shows depends on its query, the seed and `i` alone: fewer prompts are the first of more, and
    shuffled prompts show the same demonstrations as clean ones.

    Args:
        queries: pairs to ask about.
        pool: pairs to show; the train part of a split.
        n_shots: demonstrations a prompt.
        n_prompts: draw that many queries, none again before all have been; default: every query once, in order.
        template: how pairs are written.
        shuffle: of the demonstrations' outputs, see `few_shot`.
        instruction: a sentence in front; of several (None: nothing) prompts take turns.
        seed: of everything drawn.

    Raises:
        LensFVError: the pool has too few pairs, or there is nothing to ask.
    """
    if not queries:
        raise LensFVError("asked for prompts from 0 queries; give at least one pair to ask about")
    asked = queries if n_prompts is None else list(islice(_cycle(queries, seed), n_prompts))
    given = [instruction] if isinstance(instruction, str | None) else list(instruction) or [None]
    prompts: list[Prompt] = []
    for index, query in enumerate(asked):
        rng = random.Random(f"{seed}/{index}")  # a text as seed: hashed the same way everywhere
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
    """Whether a demonstration states what the query asks; words are compared in their canonical composition."""
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
    for _ in range(100):  # about one order in three has no fixed point, so this is all that distinct outputs need
        order = rng.sample(range(n), n)
        if all(pairs[j].output not in pairs[i].outputs for i, j in enumerate(order)):
            return order
    # Few distinct outputs: lay equal ones side by side and turn the row by the longest run. That moves every output,
    # and leaves as few equal to the old as can be.
    labels = [pair.output for pair in pairs]
    rank = {label: rng.random() for label in sorted(set(labels))}
    row = sorted(rng.sample(range(n), n), key=lambda i: rank[labels[i]])
    turn = max(map(labels.count, labels)) % n or 1
    return [other for _, other in sorted(zip(row, row[turn:] + row[:turn], strict=True))]
