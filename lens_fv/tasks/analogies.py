"""Analogies A:B::C:D, from files or from relations."""

import csv
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from lens_fv.choices import Count, Natural, Seed, checked
from lens_fv.errors import LensFVError
from lens_fv.tasks.task import Pair, Task
from lens_fv.texts import json_lines, read_text

FORMATS = 'JSON lines {"a","b","c","d"} or {"a","b","c","choices","answer"}, CSV or TSV with these columns, or SAT-style text'


@dataclass(frozen=True)
class Analogy:
    """A is to B as C is to D.

    Attributes:
        a, b, c: the three given words.
        d: acceptable answers, the most usual first.
        choices: for a multiple choice: texts, one of them (the primary answer) right.
        stems: what each choice is an answer to; empty: all to `c`. SAT questions give every choice a stem of its own.
        relation: which relation it is of, if known.

    Raises:
        LensFVError: a text is empty, or the right answer is not among the choices.
    """

    a: str
    b: str
    c: str
    d: tuple[str, ...]
    choices: tuple[str, ...] = ()
    stems: tuple[str, ...] = ()
    relation: str = ""

    def __post_init__(self) -> None:
        if not self.d or not all(text.strip() for text in (self.a, self.b, self.c, *self.d, *self.choices, *self.stems)):
            raise LensFVError(f"analogy {self}: a, b, c, the answer and all choices have to be texts that are not empty")
        if self.stems and len(self.stems) != len(self.choices):
            raise LensFVError(f"analogy {self}: {len(self.choices)} choices have {len(self.stems)} stems; give each its own")
        if self.choices and (self.candidates.count((self.c, self.d[0])) != 1 or len(set(self.candidates)) < len(self.choices)):
            raise LensFVError(f"analogy {self}: its choices have to differ and hold the answer; found {list(self.choices)}")

    def __str__(self) -> str:
        return f"{self.a}:{self.b}::{self.c}:{self.d[0] if self.d else ''}"

    @property
    def candidates(self) -> tuple[tuple[str, str], ...]:
        """Every choice behind its stem."""
        return tuple(zip(self.stems or (self.c,) * len(self.choices), self.choices, strict=True))

    @property
    def source(self) -> Pair:
        """A and B."""
        return Pair(self.a, (self.b,))

    @property
    def target(self) -> Pair:
        """C and the acceptable answers."""
        return Pair(self.c, self.d)


@checked
def make_analogies(
    task: Task,
    sources: Sequence[Pair],
    targets: Sequence[Pair],
    *,
    n: Count | None = None,
    n_choices: Natural = 2,
    seed: Seed = 0,
) -> list[Analogy]:
    """Analogies of one relation: every target behind a source drawn at random, beside wrong answers of other targets.

    Args:
        task: whose name they carry.
        sources: pairs to draw A:B from.
        targets: pairs to ask about.
        n: how many; default: every target once.
        n_choices: choices each, the right one among them; 0: none. Fewer where there are too few different answers.
        seed: of all draws.

    Raises:
        LensFVError: no target has a source other than itself.
    """
    rng = random.Random(seed)
    made: list[Analogy] = []
    for target in rng.sample(list(targets), len(targets))[:n]:
        usable = [pair for pair in sources if pair.input != target.input and pair.output not in target.outputs]
        if not usable:
            continue
        source = rng.choice(usable)
        wrong = sorted({p.output for p in (*targets, *sources)} - {*target.outputs, target.input, source.output, source.input})
        choices = [target.output, *rng.sample(wrong, min(n_choices - 1, len(wrong)))] if n_choices > 1 else []
        rng.shuffle(choices)
        made.append(
            Analogy(
                source.input,
                source.output,
                target.input,
                target.outputs,
                tuple(choices) if len(choices) > 1 else (),
                relation=task.name,
            )
        )
    if not made:
        raise LensFVError(f"analogies of {task.name}: no target has a source of another answer; give more pairs")
    return made


def read_analogies(path: str | Path) -> list[Analogy]:
    """Analogies from a file.

    JSON lines (or a JSON list) and CSV or TSV have the fields a, b, c and d; or a, b, c, choices (in CSV separated by "|") and
    answer (a choice, or its number from 0). SAT-style text has blocks parted by empty lines: a source pair, choice pairs, then
    the letter of the right one; words of a line are parted by blanks.

    Raises:
        LensFVError: no such file, none of these formats, or a row that is not an analogy; the message has file and line.
    """
    path = Path(path)
    text = read_text(path, f"analogies: {FORMATS}")
    if path.suffix in (".csv", ".tsv"):
        rows = csv.DictReader(text.splitlines(), delimiter="\t" if path.suffix == ".tsv" else ",")
        return [_analogy(row, f"{path}, line {rows.line_num}") for row in rows]
    if text.lstrip().startswith(("{", "[")):
        return [_analogy(row, where) for row, where in _json_rows(text, path)]
    return [_sat(block, f"{path}, line {line}") for line, block in _blocks(text)]


def _json_rows(text: str, path: Path) -> Iterator[tuple[Any, str]]:
    if text.lstrip().startswith("["):
        try:
            yield from ((row, f"{path}, row {i}") for i, row in enumerate(json.loads(text), 1))
        except ValueError as e:
            raise LensFVError(f"{path}: not JSON ({e})") from e
        return
    yield from ((row, where) for where, row in json_lines(text, path))


def _analogy(row: Any, where: str) -> Analogy:
    if not isinstance(row, Mapping) or not {"a", "b", "c"} <= row.keys() or not ({"d", "answer"} & row.keys()):
        raise LensFVError(f"{where}: not an analogy; give {FORMATS}")
    fields = cast(Mapping[str, Any], row)
    a, b, c, relation = (_text(fields.get(key)) for key in ("a", "b", "c", "relation"))
    given = fields.get("choices") or ()
    choices = tuple(_text(choice) for choice in (given.split("|") if isinstance(given, str) else given))
    answer = fields["answer"] if fields.get("answer") not in (None, "") else fields.get("d")
    answers = tuple(_text(text) for text in (cast(list[Any], answer) if isinstance(answer, list) else [answer]))
    if choices and answers[0] not in choices and answers[0].isdigit() and int(answers[0]) < len(choices):
        answers = (choices[int(answers[0])],)
    try:
        return Analogy(a, b, c, answers, choices, relation=relation)
    except LensFVError as e:
        raise LensFVError(f"{where}: {e}") from None


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _blocks(text: str) -> Iterator[tuple[int, list[str]]]:
    block: list[str] = []
    for number, line in enumerate([*text.splitlines(), ""], 1):
        if line.strip():
            if not line.startswith("#"):
                block.append(line.strip())
        elif block:
            yield number - len(block), block
            block = []


def _sat(block: list[str], where: str) -> Analogy:
    pairs = [line.split() for line in block[:-1]]
    pairs = pairs[1:] if len(pairs) > 2 and len(pairs[0]) not in (2, 3) else pairs  # a source line of the collection
    letter = block[-1].lower()
    if len(pairs) < 2 or any(len(pair) < 2 for pair in pairs) or not ("a" <= letter < chr(ord("a") + len(pairs) - 1)):
        raise LensFVError(f"{where}: not a SAT-style block (a pair, choice pairs, the letter of the right one); give {FORMATS}")
    (a, b, *_), choices = pairs[0], pairs[1:]
    c, d, *_ = choices[ord(letter) - ord("a")]
    try:
        return Analogy(a, b, c, (d,), tuple(choice[1] for choice in choices), tuple(choice[0] for choice in choices))
    except LensFVError as e:
        raise LensFVError(f"{where}: {e}") from None
