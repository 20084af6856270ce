"""Task files: whichever common format, one `Task`; and if not, the line that is wrong."""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

from lens_fv.errors import LensFVError
from lens_fv.tasks.task import Pair, Task
from lens_fv.texts import json_lines, read_text

INPUT_NAMES = ("input", "subject", "source", "word")
OUTPUT_NAMES = ("output", "outputs", "object", "target", "answer")
FORMATS = (
    'a JSON list of {"input", "output"}, JSON lines of the same, CSV or TSV with the header input,output, '
    'or a JSON object with "pairs", "samples" or "Instances"'
)
CLOZE_NAMES = ("clozes", "prompt_templates")
SPLIT_NAMES = ("train", "dev", "test")


class _Row(NamedTuple):
    where: str  # the start of an error message: file and line
    input: Any
    output: Any


def read_task(path: str | Path, *, name: str | None = None) -> Task:
    """Read a task file; its content and ending say which format it has.

    Formats: a JSON list of `{"input", "output"}` (output: a text or a list of acceptable ones), JSON lines of the same
    objects, CSV or TSV with a header (alternative outputs separated by `|`), the relation files of evandez/relations,
    Super-NaturalInstructions (Wang et al. 2022: instances, and the definition as instruction), and the format of the built-in
    relations. Rows with the same input become one pair with all their outputs.

    Args:
        path: a UTF-8 file.
        name: the task's name; default: the name in the file, else the file's own, or its folder's for a `train.json`.

    Raises:
        LensFVError: the file cannot be read as a task; the message names the file, the line and what is wrong.
    """
    path = Path(path)
    text = read_text(path, f"a task file: {FORMATS}")
    if path.suffix.lower() in (".csv", ".tsv"):
        return _make_task(name, path, {}, _table_rows(text, path))
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return _make_task(name, path, {}, _json_lines_rows(text, path))
    if text.lstrip()[0] in "[{":
        return _read_json(text, path, name)
    if any(_find(_header(text)[1], names) is not None for names in (INPUT_NAMES, OUTPUT_NAMES)):
        return _make_task(name, path, {}, _table_rows(text, path))
    raise LensFVError(f"{path}: unknown format, it starts with {text.strip()[:30]!r}; a task file is {FORMATS}")


# -- formats ----------------------------------------------------------------------------------------------------------


def _read_json(text: str, path: Path, name: str | None) -> Task:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        # Files called .json often hold one object a line: whole values in a row are that, anything else is an error.
        if error.msg == "Extra data" and text.lstrip()[0] == "{":
            return _make_task(name, path, {}, _json_lines_rows(text, path))
        raise LensFVError(f"{path}, line {error.lineno}: not valid JSON ({error.msg})") from None
    if isinstance(data, list):
        return _make_task(name, path, {}, _json_list_rows(cast(list[Any], data), text, path, start=r"\["))
    for key in ("pairs", "samples", "Instances"):
        if isinstance(data.get(key), list):
            about = _natural_instructions(data) if key == "Instances" else data
            return _make_task(name, path, about, _json_list_rows(data[key], text, path, start=rf'"{key}"\s*:\s*\['))
    if any(alias in data for alias in INPUT_NAMES):
        return _make_task(name, path, {}, [_object_row(data, f"{path}, line 1")])
    keys = ", ".join(list(data)[:5]) or "none"
    raise LensFVError(f"{path}: unknown format, a JSON object with the keys {keys}; a task file is {FORMATS}")


def _natural_instructions(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """What Super-NaturalInstructions say about a task, in our words."""

    def listed(key: str) -> list[Any]:
        value = data.get(key, [])
        return cast(list[Any], value) if isinstance(value, list) else [value]

    return {
        "instructions": listed("Definition"),
        "group": next(iter(listed("Categories")), ""),
        "source": "; ".join(map(str, (*listed("Source"), *listed("URL")))),
        "licence": "; ".join(map(str, listed("Instance License"))),
    }


def _json_list_rows(items: list[Any], text: str, path: Path, *, start: str) -> Iterable[_Row]:
    lines = _item_lines(text, start)
    for number, item in enumerate(items, 1):
        line = next(lines, None)
        yield _object_row(item, f"{path}, line {line} (row {number})" if line else f"{path}, row {number}")


def _item_lines(text: str, start: str) -> Iterator[int]:
    """The line of each item of the list that begins where `start` matches: `json.loads` does not tell."""
    decode, something = json.JSONDecoder().raw_decode, re.compile(r"[^\s,]")
    begin = re.search(start, text)
    position, counted, line = begin.end() if begin else len(text), 0, 1
    while item := something.search(text, position):
        line += text.count("\n", counted, item.start())
        yield line
        counted = item.start()
        try:
            position = decode(text, counted)[1]
        except json.JSONDecodeError:
            return  # the list's closing bracket


def _json_lines_rows(text: str, path: Path) -> Iterable[_Row]:
    return (_object_row(item, where) for where, item in json_lines(text, path))


def _object_row(item: Any, where: str) -> _Row:
    if not isinstance(item, dict):
        raise LensFVError(f'{where}: expected an object with "input" and "output", found {json.dumps(item)[:40]}')
    row = {str(key).lower(): value for key, value in cast(dict[Any, Any], item).items()}
    keys = list(row)
    columns = [_find(keys, names) for names in (INPUT_NAMES, OUTPUT_NAMES)]
    return _Row(where, *(None if column is None else row[keys[column]] for column in columns))


def _header(text: str) -> tuple[str, list[str]]:
    """Delimiter and lower-case column names of a table's first line."""
    first = text.lstrip().splitlines()[0]
    delimiter = next((mark for mark in "\t,;" if mark in first), ",")
    return delimiter, [column.strip().lower() for column in next(csv.reader([first], delimiter=delimiter))]


def _table_rows(text: str, path: Path) -> Iterable[_Row]:
    delimiter, columns = _header(text)
    input_column, output_column = _find(columns, INPUT_NAMES), _find(columns, OUTPUT_NAMES)
    if input_column is None or output_column is None:
        raise LensFVError(f"{path}, line 1: the header needs the columns input and output, found {', '.join(columns)}")
    # strict: a quote that is never closed is an error, it does not swallow the rest of the file.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        lines = ((reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells))
        next(lines)
        for line, cells in lines:
            where = f"{path}, line {line}"
            if any(cell.strip() for cell in cells[len(columns) :]):
                hint = f"put text that contains {delimiter!r} in quotes"
                raise LensFVError(f"{where}: {len(cells)} columns where the header has {len(columns)}; {hint}")
            cells += [""] * (len(columns) - len(cells))
            yield _Row(where, cells[input_column], cells[output_column].split("|"))
    except csv.Error as error:
        raise LensFVError(f"{path}, line {reader.line_num}: not a valid table ({error})") from None


def _find(columns: list[str], names: tuple[str, ...]) -> int | None:
    return next((columns.index(name) for name in names if name in columns), None)


# -- rows to a task ---------------------------------------------------------------------------------------------------


def _make_task(name: str | None, path: Path, about: Mapping[str, Any], rows: Iterable[_Row]) -> Task:
    merged: dict[str, dict[str, None]] = {}  # a dict keeps the order of outputs and drops the repeated ones
    for where, given, answers in rows:
        outputs = cast(list[Any], answers) if isinstance(answers, list) else [answers]
        if not outputs:
            raise LensFVError(f"{where}: no output")
        texts = [_text(output, "output", where) for output in outputs]
        merged.setdefault(_text(given, "input", where), {}).update(dict.fromkeys(texts))
    if not merged:
        raise LensFVError(f"{path}: no rows; a task needs at least one pair")
    try:
        return Task(
            name=name or str(about.get("name") or (path.resolve().parent.name if path.stem in SPLIT_NAMES else path.stem)),
            pairs=tuple(Pair(given, tuple(outputs)) for given, outputs in merged.items()),
            group=str(about.get("group", "")),
            family=str(about.get("family", "")),
            source=str(about.get("source", "")),
            licence=str(about.get("licence", "")),
            clozes=tuple(c.replace("{}", "{input}").rstrip() for key in CLOZE_NAMES for c in _texts(about, key, path)),
            **{key: _texts(about, key, path) for key in ("relation_words", "instructions", "languages")},
        )
    except LensFVError as error:
        raise LensFVError(f"{path}: {error}") from None


def _text(value: Any, what: str, where: str) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value is None or value == "" or (isinstance(value, str) and not value.strip()):
        raise LensFVError(f"{where}: no {what}")
    if not isinstance(value, str):
        raise LensFVError(f"{where}: the {what} has to be text, found {json.dumps(value)[:40]}; put it in quotes")
    return value.strip()


def _texts(about: Mapping[str, Any], key: str, path: Path) -> tuple[str, ...]:
    values = about.get(key, [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in cast(list[Any], values)):
        raise LensFVError(f'{path}: "{key}" has to be a list of texts')
    return tuple(cast(list[str], values))
