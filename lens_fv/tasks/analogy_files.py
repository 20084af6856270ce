"""Readers for published analogy file formats; errors name the offending line."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from statistics import mode
from string import ascii_lowercase
from typing import Any, cast

from lens_fv.core.choices import checked
from lens_fv.core.json_files import parse_json
from lens_fv.core.texts import json_lines, read_text
from lens_fv.errors import LensFVError
from lens_fv.tasks.analogies import Analogy
from lens_fv.tasks.tables import table_cells

FORMATS = (
    'JSON lines {"a","b","c","d"}, {"a","b","c","choices","answer"} or {"stem","choice","answer"}, CSV or TSV with the columns '
    'of the first two, lines "A B C D" under ": relation", or SAT-style text'
)
CLASSES = re.compile(r"\w+:\w+")
"""Word classes after a pair in a SAT file, such as "n:v"."""


@checked
def load_analogies(path: str | Path) -> list[Analogy]:
    r"""Read analogies from a file in one of the formats below.

    - JSON lines (or a JSON list) and CSV or TSV with the fields a, b, c and d; or a, b, c, choices (in CSV separated by "|")
      and answer (a choice, or its number from 0).
    - JSON lines {"stem": [A, B], "choice": [[C, D], ...], "answer": number from 0} (Ushio et al. 2021).
    - Google's analogies (Mikolov et al. 2013): four words a line, under lines ": relation".
    - SAT-style text (Turney et al. 2003): blocks separated by empty lines, each with a source line (in all blocks or
      in none), a pair, the choice pairs, and the letter of the correct one; a pair is two words, optionally followed by word
      classes ("n:v").

    Raises:
        LensFVError: no such file, none of these formats, or a row that is not an analogy; the message names file and line.

    Example:
        >>> path = folder / 'analogies.csv'
        >>> _ = path.write_text('a,b,c,d\nhot,cold,big,small\n')
        >>> lens_fv.tasks.load_analogies(path)[0].d
        ('small',)
    """
    path = Path(path)
    text = read_text(path, f"analogies: {FORMATS}")
    if path.suffix.lower() in (".csv", ".tsv"):
        return [_analogy(row, context) for context, row in _table_rows(text, path)]
    if text.lstrip().startswith("["):
        rows = parse_json(text, str(path), remedy=f"give {FORMATS}")
        return [_analogy(row, f"{path}, row {i}") for i, row in enumerate(rows, 1)]
    if text.lstrip().startswith("{"):
        return [_analogy(row, context) for context, row in json_lines(text, path)]
    if has_sections(text):
        return [Analogy(a, b, c, (d,), relation=name) for name, (a, b, c, d) in sections(text, path)]
    return _sat(list(_blocks(text)), path)


# -- Google's format --------------------------------------------------------------------------------------------------


def has_sections(text: str) -> bool:
    """Whether a text begins with a line ": relation", possibly after comments."""
    return next((line for line in text.splitlines() if _has_content(line)), "").startswith(":")


def sections(text: str, path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the relation and the four words of each line.

    Raises:
        LensFVError: a line without exactly four words, or a relation without a name.
    """
    name = ""
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if line.startswith(":"):
            name = line[1:].strip()
        if not _has_content(line) or (line.startswith(":") and name):
            continue
        if len(words) != 4 or not name:
            raise LensFVError(f"{path}, line {number}: {line.strip()[:40]!r} is neither four words nor ': ' and a relation")
        yield name, words


def _has_content(line: str) -> bool:
    return bool(line.strip()) and not line.startswith(("#", "//"))


# -- objects and tables -----------------------------------------------------------------------------------------------


def _table_rows(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    (context, header), *rows = [*table_cells(text, path)] or [(str(path), list[str]())]
    names = [" ".join(name.split()).lower() for name in header]
    if len(set(names)) < len(names) or not rows:
        raise LensFVError(f"{context}: no rows, or two columns of one name: {', '.join(names)}; give {FORMATS}")
    for context, cells in rows:
        if len(cells) > len(names):
            raise LensFVError(f"{context}: {len(cells)} columns where the header has {len(names)}")
        yield context, dict(zip_longest(names, cells, fillvalue=""))


def _analogy(row: Any, context: str) -> Analogy:
    fields = cast(Mapping[str, Any], row) if isinstance(row, Mapping) else dict[str, Any]()
    try:
        if {"stem", "choice", "answer"} <= fields.keys():
            return _stemmed(fields)
        if not {"a", "b", "c"} <= fields.keys() or not {"d", "answer"} & fields.keys():
            raise LensFVError(f"not an analogy; give {FORMATS}")
        return _plain(fields)
    except LensFVError as e:
        raise LensFVError(f"{context}: {e}") from None


def _plain(fields: Mapping[str, Any]) -> Analogy:
    a, b, c, relation = (_text(fields.get(key)) for key in ("a", "b", "c", "relation"))
    choice_field: Any = fields.get("choices") or []
    choices = _texts(choice_field.split("|") if isinstance(choice_field, str) else choice_field)
    answers, d = _texts(fields.get("answer")), _texts(fields.get("d"))
    if any(answers) and any(d) and answers != d:
        raise LensFVError(f"the answer can be d, {d[0]!r}, or answer, {answers[0]!r}; leave one out")
    answers = answers if any(answers) else d
    numbered = {str(i): choice for i, choice in enumerate(choices)}.get(answers[0] if answers else "")
    if numbered is not None and answers[0] not in choices:
        answers = (numbered,)
    elif numbered is not None and numbered != answers[0]:
        raise LensFVError(f"the answer {answers[0]} can be the choice {answers[0]!r} or the choice of this number; give a word")
    return Analogy(a, b, c, answers, choices, relation=relation)


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(map(_text, cast(list[Any], value) if isinstance(value, list) else [value]))


def _stemmed(row: Mapping[str, Any]) -> Analogy:
    pairs: list[Any] = [row["stem"], *row["choice"]] if isinstance(row["choice"], list) else [row["stem"]]
    are_pairs = all(isinstance(p, list) and [type(word) for word in cast(list[Any], p)] == [str, str] for p in pairs)
    answer = row["answer"]
    if not are_pairs or not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(pairs) - 1:
        raise LensFVError("stem has to be a pair, choice a list of pairs, and answer the number of one, from 0")
    return _multiple_choice(cast(list[list[str]], pairs), answer)


def _multiple_choice(pairs: Sequence[Sequence[str]], answer: int) -> Analogy:
    """Make an analogy with the first pair as A:B, the others as choices, and number `answer` as the correct one."""
    (a, b), *choices = pairs
    c, d = choices[answer]
    return Analogy(a, b, c, (d,), tuple(choice[1] for choice in choices), tuple(choice[0] for choice in choices))


def _text(value: Any) -> str:
    if value is not None and (isinstance(value, bool) or not isinstance(value, (str, int))):
        raise LensFVError(f"expected a text, found {ascii(value)[:40]}")
    return "" if value is None else str(value).strip()


# -- SAT --------------------------------------------------------------------------------------------------------------


def _blocks(text: str) -> Iterator[list[tuple[int, str]]]:
    """Yield blocks of numbered lines separated by empty lines, without comments."""
    block: list[tuple[int, str]] = []
    for number, line in enumerate([*text.splitlines(), ""], 1):
        if line.strip():
            block += [] if line.startswith("#") else [(number, line.strip())]
        elif block:
            yield block
            block = []


def _sat(blocks: list[list[tuple[int, str]]], path: Path) -> list[Analogy]:
    """Parse SAT blocks; the number of lines and the kind of the first line must be the same in all blocks."""

    def wrong(number: int, problem: str) -> LensFVError:
        return LensFVError(
            f"{path}, line {number}: {problem}; a SAT-style block is where it is from, a pair, choice pairs, and the letter of "
            "the right one"
        )

    if not blocks or len(blocks[0]) < 4:
        raise LensFVError(f"{path}, line {blocks[0][0][0] if blocks else 1}: not a SAT-style block; give {FORMATS}")
    n_lines = mode(len(block) for block in blocks)
    for block in blocks:
        if len(block) != n_lines:
            raise wrong(block[0][0], f"a block of {len(block)} lines, where others have {n_lines}")
    has_classes = mode(bool(CLASSES.fullmatch(block[-2][1].split()[-1])) for block in blocks)
    sourced = [_pair(block[0][1], has_classes) is None for block in blocks]
    has_source = mode(sourced)
    for block, is_sourced in zip(blocks, sourced, strict=True):
        if is_sourced != has_source:
            others = "no pair" if has_source else "a pair"
            raise wrong(block[0][0], f"the block begins with {block[0][1][:40]!r}, others with {others}")
    if n_lines == 8 and not has_classes and not has_source:
        raise wrong(blocks[0][0][0], "the first of 8 lines can be a pair, or where the block is from (then begin it with #)")
    analogies: list[Analogy] = []
    for block in blocks:
        pairs: list[tuple[str, str]] = []
        for number, line in block[has_source:-1]:
            pair = _pair(line, has_classes)
            if pair is None:
                raise wrong(number, f"{line[:40]!r} is no pair{' with word classes' * has_classes}")
            pairs.append(pair)
        number, letter = block[-1]
        answer = ascii_lowercase.find(letter.lower()) if len(letter) == 1 else -1
        if not 0 <= answer < len(pairs) - 1:
            raise wrong(number, f"{letter[:40]!r} is not the letter of one of {len(pairs) - 1} choices")
        try:
            analogies.append(_multiple_choice(pairs, answer))
        except LensFVError as e:
            raise wrong(block[0][0], str(e)) from None
    return analogies


def _pair(line: str, has_classes: bool) -> tuple[str, str] | None:
    words = line.split()
    if len(words) != 2 + has_classes or (has_classes and not CLASSES.fullmatch(words[2])):
        return None
    return words[0], words[1]
