"""Loading of built-in relations by name, of task files and folders by path, and of instruction files."""

from collections import Counter
from difflib import get_close_matches
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, cast

from lens_fv.core.choices import checked
from lens_fv.core.json_files import parse_json
from lens_fv.core.texts import nfc, read_text
from lens_fv.errors import LensFVError
from lens_fv.tasks.analogy_files import has_sections, sections
from lens_fv.tasks.readers import parse_task_file
from lens_fv.tasks.tables import BATS, INFERRED, Columns
from lens_fv.tasks.task import Pair, Task

INSTRUCTION_FORMATS = 'a JSON list of texts, a JSON object with "prompts" or "instructions", or one instruction a line'
ENDINGS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt")
_DATA = files("lens_fv.tasks") / "data"


@cache
def list_tasks(*, group: str | None = None, family: str | None = None) -> tuple[str, ...]:
    """List the names of the built-in relations, sorted.

    Args:
        group: Group of relations, such as "morphology"; default: all.
        family: Family of relations, such as "inflection"; default: all.

    Raises:
        LensFVError: no such group or family.

    Example:
        >>> 'present-past' in lens_fv.list_tasks(family='inflection')
        True
    """
    names = tuple(sorted(file.name[:-5] for file in _DATA.iterdir() if file.name.endswith(".json")))
    if group is None and family is None:
        return names
    tasks = [load_task(name) for name in names]
    matching = tuple(task.name for task in tasks if group in (None, task.group) and family in (None, task.family))
    if not matching:
        known = "; ".join(f"{a} / {b}" for a, b in sorted({(task.group, task.family) for task in tasks}))
        raise LensFVError(f"relations of group {group!r}, family {family!r}: there are none; known are {known}")
    return matching


@checked
def load_task(
    name_or_path: str | Path,
    *,
    name: str | None = None,
    input_column: str | None = None,
    output_column: str | None = None,
    alternatives: str | None = None,
) -> Task:
    """Load a built-in relation by name, or a task file by path.

    Args:
        name_or_path: Name of a built-in relation, or a file in any format that `lens_fv.tasks.readers.parse_task_file` reads.
        name: Name of a file's task; default: the name in the file, else the file's own, or its folder's for a `train.json`.
        input_column: Column (in a table with a header) or key (in JSON objects) of the inputs, if ambiguous; in a table without
            a header, its number from 1, together with `output_column`.
        output_column: Column or key of the outputs, given the same way.
        alternatives: Separator of acceptable outputs within one text, such as "/"; "": none.

    Raises:
        LensFVError: no such relation or file, or the file is not a task, or can be read in more than one way.

    Example:
        >>> import lens_fv
        >>> lens_fv.load_task("antonym").pairs[0]
        Pair(input='hot', outputs=('cold', 'cool'))
    """
    text, columns = str(name_or_path), Columns(input_column, output_column, alternatives)
    has_options = name is not None or columns != INFERRED
    if text in list_tasks() and not has_options:
        return _built_in(text)
    path = Path(name_or_path)
    if has_options or path.exists() or path.suffix or len(path.parts) > 1:
        return parse_task_file(path, name, columns)
    near = " or ".join(get_close_matches(text.lower(), list_tasks(), n=3))
    hint = f"did you mean {near}? " if near else ""
    raise LensFVError(
        f"unknown task {text!r}: {hint}`lens-fv tasks` or list_tasks() lists the {len(list_tasks())} built-in ones, "
        "a task of your own is the path of a file"
    )


@checked
def load_tasks(name_or_path: str | Path) -> tuple[Task, ...]:
    """Load a built-in relation by name, or all tasks of a file, or of a folder and its subfolders, by path.

    In the folder of the Bigger Analogy Test Set, these are its files; elsewhere, all files with the extension of a task file.
    A file of Google's analogies (Mikolov et al. 2013) gives one task per section, with all its pairs.

    Raises:
        LensFVError: no such relation, folder or file, a file is not a task, no task, or two tasks of the same name.

    Example:
        >>> [task.name for task in lens_fv.tasks.load_tasks('antonym')]
        ['antonym']
    """
    path = Path(name_or_path)
    if str(name_or_path) in list_tasks() or not path.exists():
        return (load_task(name_or_path),)
    tasks = _load_path(path)
    names = Counter(task.name for task in tasks)
    if not tasks:
        raise LensFVError(f"{path}: no task file in it; their names end in {', '.join(ENDINGS)}")
    if len(names) < len(tasks):
        raise LensFVError(f"{path}: two tasks are called {names.most_common(1)[0][0]}; rename a file, or read them one by one")
    return tuple(tasks)


def _load_path(path: Path) -> list[Task]:
    if path.is_dir():
        task_files = sorted(p for p in path.rglob("*") if p.suffix.lower() in ENDINGS and not p.name.startswith("."))
        bats_files = [file for file in task_files if BATS.fullmatch(file.stem)]
        return [task for file in bats_files or task_files for task in _load_path(file)]
    if path.suffix.lower() != ".txt" or not has_sections(text := read_text(path, "tasks")):
        return [parse_task_file(path)]
    outputs: dict[str, dict[str, dict[str, None]]] = {}  # by section and input, in order
    for name, (a, b, c, d) in sections(text, path):
        section = outputs.setdefault(name, {})
        section.setdefault(a, {})[b] = None
        section.setdefault(c, {})[d] = None
    source = "Google's analogies (Mikolov et al. 2013)"
    return [
        Task(name, tuple(Pair(word, tuple(answers)) for word, answers in section.items()), source=source)
        for name, section in outputs.items()
    ]


@cache
def _built_in(name: str) -> Task:
    """Read a built-in relation and cache it, because neither the file nor a task changes."""
    with as_file(_DATA / f"{name}.json") as path:
        return parse_task_file(path)


@checked
def load_instructions(path: str | Path) -> tuple[str, ...]:
    r"""Read the paraphrased instructions for one task from a file.

    Raises:
        LensFVError: no such file, an unknown format, or no instruction in it.

    Example:
        >>> path = folder / 'instructions.txt'
        >>> _ = path.write_text('Say the opposite.\nGive an antonym.\n')
        >>> lens_fv.tasks.load_instructions(path)
        ('Say the opposite.', 'Give an antonym.')
    """
    path = Path(path)
    text = read_text(path, f"instructions: {INSTRUCTION_FORMATS}")
    data: Any = text.splitlines()
    if text.lstrip()[:1] in ("[", "{"):
        data = parse_json(text, f"instructions in {path}", remedy=f"give {INSTRUCTION_FORMATS}")
    if isinstance(data, dict):
        fields = cast(dict[str, Any], data)
        if {"prompts", "instructions"} <= fields.keys():
            raise LensFVError(f"instructions in {path}: they can be prompts or instructions; leave one out")
        data = fields.get("prompts", fields.get("instructions"))
    if not isinstance(data, list) or not all(isinstance(item, str) for item in cast(list[Any], data)):
        raise LensFVError(f"instructions in {path}: give {INSTRUCTION_FORMATS}")
    stripped = [item.strip() for item in cast(list[str], data) if item.strip()]
    texts = tuple({nfc(item): item for item in stripped}.values())
    if not texts:
        raise LensFVError(f"instructions in {path}: there are none; give {INSTRUCTION_FORMATS}")
    return texts
