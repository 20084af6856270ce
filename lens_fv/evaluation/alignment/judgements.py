"""Files of human similarity judgements: a matrix or a list of judged pairs."""

import csv
import io
import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lens_fv.core.choices import checked
from lens_fv.core.texts import json_lines, nfc, read_text
from lens_fv.errors import LensFVError
from lens_fv.evaluation.alignment.matrix import MIN_ITEMS, SimilarityMatrix

FORMATS = "a square CSV or TSV with names in its first row and column, or a list (CSV, TSV, JSON lines) of a, b, score"


class _Judgement(NamedTuple):
    location: str  # file and line, as the start of an error message
    a: str
    b: str
    score: float


@checked
def load_judgements(path: str | Path, *, known: Collection[str] | None = None) -> SimilarityMatrix:
    r"""Read judged similarities of relations from a file.

    A square table has names in its first row and column, in any order; empty cells are not judged, and one triangle is enough.
    A list has the columns (in JSON lines, the keys) a, b and score, with one row per judged pair of items. In both formats,
    higher means more similar, and the diagonal is ignored.

    Args:
        path: UTF-8 file; its format is recognised by its content.
        known: Permitted names, in any Unicode normalisation; default: any.

    Raises:
        LensFVError: an unknown format or name, a non-numeric score, two scores of the same pair, an asymmetric matrix, or
            fewer than four items; the message names file and line.

    Example:
        >>> path = folder / 'judged.csv'
        >>> _ = path.write_text('name,a,b,c,d\na,1,.2,.4,.3\nb,.2,1,.7,.1\nc,.4,.7,1,.5\nd,.3,.1,.5,1\n')
        >>> lens_fv.evaluation.alignment.load_judgements(path).names
        ('a', 'b', 'c', 'd')
    """
    path = Path(path)
    text = read_text(path, f"judgements: {FORMATS}")
    spellings = {nfc(name): name for name in known or ()}
    names: dict[str, int] = {}
    first: dict[frozenset[str], _Judgement] = {}
    rows = _json_judgements(text, path) if text.lstrip().startswith("{") else _table(text, path)
    for judgement in rows:
        for name in (judgement.a, judgement.b):
            if known is not None and name not in spellings:
                raise LensFVError(
                    f"{judgement.location}: unknown relation {name!r}; known are {', '.join(sorted(known)[:10])}"
                    + (", ..." if len(known) > 10 else "")
                )
            names.setdefault(name, len(names))
        if judgement.a == judgement.b or math.isnan(judgement.score):
            continue
        before = first.setdefault(frozenset((judgement.a, judgement.b)), judgement)
        if not math.isclose(before.score, judgement.score, rel_tol=1e-6, abs_tol=1e-9):
            raise LensFVError(
                f"{judgement.location}: {judgement.a} and {judgement.b} score {judgement.score:g} here and {before.score:g} in "
                f"{before.location.removeprefix(f'{path}, ')}; similarities are symmetric, give one score (a mean, for example)"
            )
    if len(names) < MIN_ITEMS:
        raise LensFVError(f"{path}: {len(names)} items; a comparison takes at least {MIN_ITEMS}")
    values = np.full((len(names), len(names)), np.nan)
    for judgement in first.values():
        i, j = names[judgement.a], names[judgement.b]
        values[i, j] = values[j, i] = judgement.score
    return SimilarityMatrix(tuple(spellings.get(name, name) for name in names), values)


def _json_judgements(text: str, path: Path) -> Iterator[_Judgement]:
    for location, row in json_lines(text, path):
        if not isinstance(row, dict) or not {"a", "b", "score"} <= row.keys():
            raise LensFVError(f"{location}: not a judgement with a, b and score; give {FORMATS}")
        yield _judgement(location, row["a"], row["b"], row["score"])


def _table(text: str, path: Path) -> Iterator[_Judgement]:
    head = text.lstrip("\n").partition("\n")[0]
    delimiter = next((mark for mark in "\t;," if mark in head), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        numbered = [(f"{path}, line {reader.line_num}", [nfc(" ".join(cell.split())) for cell in row]) for row in reader]
    except csv.Error as e:
        raise LensFVError(f"{path}, line {reader.line_num}: not a table ({e}); give {FORMATS}") from None
    rows = [(location, row) for location, row in numbered if any(row)]
    if not rows:
        raise LensFVError(f"{path}: no names and no scores; give {FORMATS}")
    (location, header), *body = rows
    if [cell.lower() for cell in header] == ["a", "b", "score"]:
        for location, row in body:
            if len(row) != 3:
                raise LensFVError(f"{location}: {len(row)} cells, a judgement has a, b and score")
            yield _judgement(location, *row)
        return
    columns = header[1:]
    if len(columns) < 2 or "" in columns or len(set(columns)) < len(columns):
        raise LensFVError(f"{location}: the first row holds no names, or one twice; give {FORMATS}")
    seen: set[str] = set()
    for location, row in body:
        if len(row) != len(header) or row[0] not in columns or row[0] in seen:
            raise LensFVError(
                f"{location}: the row of {row[0]!r} has {len(row) - 1} scores for {len(columns)} columns; rows and columns "
                "have to have the same names, each once"
            )
        seen.add(row[0])
        for name, cell in zip(columns, row[1:], strict=True):
            yield _judgement(location, row[0], name, cell or "nan")
    if len(seen) < len(columns):
        raise LensFVError(f"{location}: the table ends without a row of {', '.join(c for c in columns if c not in seen)}")


def _judgement(location: str, a: Any, b: Any, score: Any) -> _Judgement:
    try:
        number = float(score)
    except (TypeError, ValueError):
        raise LensFVError(f"{location}: the score of {a} and {b} is {score!r}; give a number") from None
    if math.isinf(number) or not str(a).strip() or not str(b).strip():
        raise LensFVError(f"{location}: {a!r} and {b!r} score {score!r}; give two names and a finite number")
    one, other = (nfc(" ".join(str(name).split())) for name in (a, b))
    return _Judgement(location, one, other, number)
