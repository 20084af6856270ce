"""Readers that turn task files of common formats into a `Task`; errors name the offending line."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from lens_fv.core.json_files import parse_json
from lens_fv.core.texts import json_lines, nfc, read_text
from lens_fv.errors import LensFVError
from lens_fv.tasks.tables import BATS, INFERRED, INPUT_NAMES, Columns, Row, is_table, table_rows
from lens_fv.tasks.task import Pair, Task

FORMATS = (
    'a JSON list of {"input", "output"}, JSON lines of the same, CSV or TSV with the header input,output, lines of two words, '
    'or a JSON object with "pairs", "samples" or "Instances"'
)
CLOZE_NAMES = ("clozes", "prompt_templates")
SPLIT_NAMES = ("train", "dev", "test")


def parse_task_file(path: Path, name: str | None = None, columns: Columns = INFERRED) -> Task:
    """Read a task file; the format is recognised by its content and extension.

    Formats: a JSON list of `{"input", "output"}` (output: a string or a list of acceptable ones), JSON lines of the same
    objects, CSV or TSV with a header (alternative outputs separated by `|`), two columns without a header, the files of the
    Bigger Analogy Test Set (known by their names; alternatives separated by `/`), the relation files of evandez/relations,
    Super-NaturalInstructions (Wang et al. 2022: instances, and the definition as instruction), and the format of the built-in
    relations. Rows with the same input become one pair with all their outputs. Texts count as equal if their Unicode
    normalisations (NFC) are; the model sees the spelling that comes first in the file.

    Args:
        path: A UTF-8 file.
        name: The task's name; see `load_task`.
        columns: What the caller says about the file's columns.

    Raises:
        LensFVError: the file cannot be read as a task, or is ambiguous; the message names the file, the line and the
            problem.
    """
    text = read_text(path, f"a task file: {FORMATS}")
    about, rows = _content(text, path, columns)
    return _make_task(name, path, about, rows)


# -- formats: what a file says about its task, and its rows -----------------------------------------------------------

Content = tuple[Mapping[str, Any], Iterable[Row]]


def _content(text: str, path: Path, columns: Columns) -> Content:
    if path.suffix.lower() in (".csv", ".tsv"):
        return {}, table_rows(text, path, columns)
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return {}, _json_lines_rows(text, path, columns)
    if text.lstrip()[0] in "[{":
        return _json_content(text, path, columns)
    if is_table(text, columns):
        return _bats(path), table_rows(text, path, columns)
    hint = "load_tasks, load_analogies or `lens-fv analogy` read Google's analogies; " * text.lstrip().startswith((":", "//"))
    raise LensFVError(f"{path}: unknown format, it starts with {text.strip()[:30]!r}; {hint}a task file is {FORMATS}")


def _json_content(text: str, path: Path, columns: Columns) -> Content:
    try:
        data = parse_json(text, str(path), remedy=f"a task file is {FORMATS}")
    except LensFVError as error:
        cause = error.__cause__
        if not isinstance(cause, json.JSONDecodeError):
            raise
        # Files called .json often hold one object per line: consecutive complete values are accepted, all else is an error.
        if cause.msg == "Extra data" and text.lstrip()[0] == "{":
            return {}, _json_lines_rows(text, path, columns)
        raise LensFVError(f"{path}, line {cause.lineno}: not valid JSON ({cause.msg})") from None
    if isinstance(data, list):
        return {}, _json_list_rows(cast(list[Any], data), text, path, columns, start=r"\[")
    for key in ("pairs", "samples", "Instances"):
        if isinstance(data.get(key), list):
            about = _natural_instructions(data) if key == "Instances" else data
            return about, _json_list_rows(data[key], text, path, columns, start=rf'"{key}"\s*:\s*\[')
    if any(alias in data for alias in (*INPUT_NAMES, columns.input)):
        return {}, [_object_row(data, f"{path}, line 1", columns)]
    keys = ", ".join(list(data)[:5]) or "none"
    raise LensFVError(f"{path}: unknown format, a JSON object with the keys {keys}; a task file is {FORMATS}")


def _natural_instructions(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Convert a Super-NaturalInstructions task to our field names."""

    def listed(key: str) -> list[Any]:
        value = data.get(key, [])
        return cast(list[Any], value) if isinstance(value, list) else [value]

    return {
        "instructions": listed("Definition"),
        "group": next(iter(listed("Categories")), ""),
        "source": "; ".join(map(str, (*listed("Source"), *listed("URL")))),
        "licence": "; ".join(map(str, listed("Instance License"))),
    }


def _json_list_rows(items: list[Any], text: str, path: Path, columns: Columns, *, start: str) -> Iterable[Row]:
    lines = _item_lines(text, start)
    for number, item in enumerate(items, 1):
        line = next(lines, None)
        yield _object_row(item, f"{path}, line {line} (row {number})" if line else f"{path}, row {number}", columns)


def _item_lines(text: str, start: str) -> Iterator[int]:
    """Yield the line of each item in the list that begins where `start` matches; `json.loads` does not report lines."""
    decode, item_start = json.JSONDecoder().raw_decode, re.compile(r"[^\s,]")
    opening = re.search(start, text)
    position, counted, line = opening.end() if opening else len(text), 0, 1
    while item := item_start.search(text, position):
        line += text.count("\n", counted, item.start())
        yield line
        counted = item.start()
        try:
            position = decode(text, counted)[1]
        except json.JSONDecodeError:
            return  # the list's closing bracket


def _json_lines_rows(text: str, path: Path, columns: Columns) -> Iterable[Row]:
    return (_object_row(item, context, columns) for context, item in json_lines(text, path))


def _object_row(item: Any, context: str, columns: Columns) -> Row:
    if not isinstance(item, dict):
        raise LensFVError(f'{context}: expected an object with "input" and "output", found {json.dumps(item)[:40]}')
    row = {str(key).lower(): value for key, value in cast(dict[Any, Any], item).items()}
    keys = list(row)
    input_text, output = (None if index is None else row[keys[index]] for index in columns.find(keys, context))
    if columns.alternatives and isinstance(output, str):
        output = output.split(columns.alternatives)
    return Row(context, input_text, output)


def _bats(path: Path) -> Mapping[str, Any]:
    """Read task metadata from file and folder names, if they follow the Bigger Analogy Test Set."""
    match = BATS.fullmatch(path.stem)
    if match is None:
        return {}
    group = re.sub(r"^\d_", "", path.resolve().parent.name).replace("_", " ").lower()
    name = f"{match[1]}-{match[2].replace(' - ', '-').replace(' ', '_')}"
    return {"name": name, "group": group, "source": "BATS (Gladkova et al. 2016)"}


# -- rows to a task ---------------------------------------------------------------------------------------------------


def _make_task(name: str | None, path: Path, about: Mapping[str, Any], rows: Iterable[Row]) -> Task:
    inputs: dict[str, str] = {}  # first spelling by comparison key; the same for each input's outputs
    merged: dict[str, dict[str, str]] = {}
    for context, word, answers in rows:
        answers = cast(list[Any], answers) if isinstance(answers, list) else [answers]
        if not answers:
            raise LensFVError(f"{context}: no output")
        texts = [_text(answer, "output", context) for answer in answers]
        word = _text(word, "input", context)
        inputs.setdefault(nfc(word), word)
        outputs = merged.setdefault(nfc(word), {})
        for text in texts:
            outputs.setdefault(nfc(text), text)
    if not merged:
        raise LensFVError(f"{path}: no rows; a task needs at least one pair")
    try:
        return Task(
            name=name or str(about.get("name") or (path.resolve().parent.name if path.stem in SPLIT_NAMES else path.stem)),
            pairs=tuple(Pair(inputs[key], tuple(outputs.values())) for key, outputs in merged.items()),
            group=str(about.get("group", "")),
            family=str(about.get("family", "")),
            source=str(about.get("source", "")),
            licence=str(about.get("licence", "")),
            clozes=tuple(c.replace("{}", "{input}").rstrip() for key in CLOZE_NAMES for c in _texts(about, key, path)),
            **{key: _texts(about, key, path) for key in ("relation_words", "instructions", "languages")},
        )
    except LensFVError as error:
        raise LensFVError(f"{path}: {error}") from None


def _text(value: Any, role: str, context: str) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value is None or value == "" or (isinstance(value, str) and not value.strip()):
        raise LensFVError(f"{context}: no {role}")
    if not isinstance(value, str):
        raise LensFVError(f"{context}: the {role} has to be text, found {json.dumps(value)[:40]}; put it in quotes")
    return value.strip()


def _texts(about: Mapping[str, Any], key: str, path: Path) -> tuple[str, ...]:
    values = about.get(key, [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in cast(list[Any], values)):
        raise LensFVError(f'{path}: "{key}" has to be a list of texts')
    return tuple(cast(list[str], values))
