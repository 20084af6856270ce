"""Tables of pairs, with or without a header: finds the columns, and refuses ambiguous tables."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lens_fv.errors import LensFVError

INPUT_NAMES = ("input", "subject", "source", "word")
OUTPUT_NAMES = ("output", "outputs", "object", "target", "answer")
BATS = re.compile(r"([DEIL]\d\d) \[(.+)\]")
"""File names of the Bigger Analogy Test Set (Gladkova et al. 2016): `I01 [noun - plural_reg].txt`."""
_OPTIONS = "(on the command line: `lens-fv tasks FILE --input-column ... --output-column ... --out task.json`)"


class Row(NamedTuple):
    """One row of a file: its context (file and line, as the start of an error message) and its content."""

    context: str
    input: Any
    output: Any


class Columns(NamedTuple):
    """Columns and separator given by the caller, for files that can be read in several ways; see `load_task`."""

    input: str | None = None
    output: str | None = None
    alternatives: str | None = None

    @property
    def numbers(self) -> tuple[int, int] | None:
        """Indices of both columns, if they are given as numbers."""
        columns = [column or "" for column in (self.input, self.output)]
        numbers = [int(column) - 1 for column in columns if re.fullmatch("[1-9][0-9]{0,3}", column)]
        return (numbers[0], numbers[1]) if len(numbers) == 2 else None

    def find(self, names: Sequence[str], context: str) -> tuple[int | None, int | None]:
        """Find the indices of the input and output columns among lower-case names; None if absent.

        Raises:
            LensFVError: a requested column is missing, or several columns match and none is called "input" (or
                "output").
        """
        return _find(names, INPUT_NAMES, self.input, context), _find(names, OUTPUT_NAMES, self.output, context)


INFERRED = Columns()
"""Columns that the file itself tells apart."""


def _find(names: Sequence[str], known: Sequence[str], requested: str | None, context: str) -> int | None:
    role = known[0]
    if requested is not None:
        if names.count(requested.lower()) != 1:
            raise LensFVError(f"{context}: {role}_column={requested!r} asked for; the columns are {', '.join(names)}")
        return names.index(requested.lower())
    candidates = [name for name in names if name in known]
    if candidates.count(role) != 1 and len(candidates) > 1:
        raise LensFVError(f"{context}: the {role} can be {' or '.join(candidates)}; say which with {role}_column= {_OPTIONS}")
    return names.index(role if role in candidates else candidates[0]) if candidates else None


def table_rows(text: str, path: Path, columns: Columns) -> Iterator[Row]:
    """Yield the rows of a CSV or TSV file, or of lines of two words.

    A first line that names an input and an output column is a header. Without a header, `.csv` and `.tsv` files need column
    numbers; other files are read as two columns separated by a tab or by spaces.

    Raises:
        LensFVError: an unrecognised or ambiguous header, a row with a different number of columns, or outputs that contain a
            slash when `alternatives` does not say whether it separates them.
    """
    lines = list(table_cells(text, path))
    if not lines:
        return
    context, first = lines[0]
    names = [" ".join(name.split()).lower() for name in first]
    by_number = columns.numbers and not {columns.input, columns.output} & set(names)
    header = None if by_number else _header(names, path, columns, context)
    numbers = header or columns.numbers or (0, 1)
    if max(numbers) >= len(names):
        raise LensFVError(
            f"{context}: column {max(numbers) + 1} asked for; the first line has {len(names)}: {', '.join(names)}"
        )
    separator = "/" if columns.alternatives is None and BATS.fullmatch(path.stem) else columns.alternatives
    for context, cells in lines[1:] if header else lines:
        if len(cells) > len(names):
            hint = "put text that contains the separator of columns in quotes"
            raise LensFVError(f"{context}: {len(cells)} columns where the first line has {len(names)}; {hint}")
        cells += [""] * (len(names) - len(cells))
        yield Row(context, cells[numbers[0]], _alternatives(cells[numbers[1]], separator, context))


def _header(names: list[str], path: Path, columns: Columns, context: str) -> tuple[int, int] | None:
    """Indices of input and output if the first line is a header; None if it is a pair."""
    input_column, output_column = columns.find(names, context)
    if input_column is not None and output_column is not None:
        return input_column, output_column
    has_header = input_column is not None or output_column is not None or path.suffix.lower() in (".csv", ".tsv")
    if len(names) == 2 and (BATS.fullmatch(path.stem) or not has_header):
        return None
    pair = "; if it is a pair already, number the columns: input_column='1', output_column='2'" * (len(names) > 1)
    raise LensFVError(
        f"{context}: the header needs the columns input and output, found {', '.join(names)}; name them with input_column= and "
        f"output_column={pair} {_OPTIONS}"
    )


def _alternatives(cell: str, separator: str | None, context: str) -> list[str]:
    if separator is None and re.search(r"\w/\w", cell) and "|" not in cell:
        raise LensFVError(
            f"{context}: {cell.strip()!r} can be one answer or several; say alternatives='/', or alternatives='' for one "
            "(on the command line: `lens-fv tasks FILE --alternatives / --out task.json`)"
        )
    separator = "|" if separator is None else separator
    return cell.split(separator) if separator else [cell]


def table_cells(text: str, path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the location and cells of each non-empty line.

    Raises:
        LensFVError: malformed CSV, such as an unclosed quote.
    """
    delimiter = _delimiter(text) or {".csv": ",", ".tsv": "\t"}.get(path.suffix.lower())
    if delimiter is None:
        numbered = ((n, line.split()) for n, line in enumerate(text.splitlines(), 1))
        yield from ((f"{path}, line {n}", cells) for n, cells in numbered if cells)
        return
    # strict: an unclosed quote is an error and does not swallow the rest of the file.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            while cells and not cells[-1].strip() and len(cells) > 1:
                cells.pop()
            if any(cell.strip() for cell in cells):
                yield f"{path}, line {reader.line_num}", cells
    except csv.Error as error:
        raise LensFVError(f"{path}, line {reader.line_num}: not a valid table ({error})") from None


def is_table(text: str, columns: Columns) -> bool:
    """Whether a text of no other format can be a table: its first line names a known column or is a pair without commas."""
    nothing: tuple[str, list[str]] = ("", [])
    _, names = next(table_cells(text, Path()), nothing)
    known = {name.strip().lower() for name in names} & {*INPUT_NAMES, *OUTPUT_NAMES, columns.input, columns.output}
    return bool(known or columns.numbers or (len(names) == 2 and _delimiter(text) in ("\t", None)))


def _delimiter(text: str) -> str | None:
    """Separator of the columns in a table's first line: tab, comma or semicolon; None: spaces."""
    first = text.lstrip().splitlines()[0]
    return next((delimiter for delimiter in "\t,;" if delimiter in first), None)
