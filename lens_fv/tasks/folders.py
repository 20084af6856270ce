"""Reading many tasks at once: a folder of task files, or a file with sections."""

from collections import Counter
from pathlib import Path

from lens_fv.core.texts import read_text
from lens_fv.errors import LensFVError
from lens_fv.tasks.analogy_files import has_sections, sections
from lens_fv.tasks.readers import parse_task_file
from lens_fv.tasks.tables import BATS
from lens_fv.tasks.task import Pair, Task

ENDINGS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt")


def parse_task_folder(path: str | Path) -> tuple[Task, ...]:
    """Read all tasks of one file, or of a folder and its subfolders.

    In the folder of the Bigger Analogy Test Set, these are its files; elsewhere, all files with the extension of a task file.
    A file of Google's analogies (Mikolov et al. 2013) gives one task per section, with all its pairs.

    Args:
        path: path of a folder or file.

    Raises:
        LensFVError: no task, two tasks of the same name, or an error from `parse_task_file`.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in ENDINGS and not file.name.startswith("."))
        known = [file for file in files if BATS.fullmatch(file.stem)]
        found = [task for file in known or files for task in parse_task_folder(file)]
    elif path.suffix.lower() == ".txt" and has_sections(text := read_text(path, "tasks")):
        found = _of_sections(text, path)
    else:
        found = [parse_task_file(path)]
    names = Counter(task.name for task in found)
    if not found:
        raise LensFVError(f"{path}: no task file in it; their names end in {', '.join(ENDINGS)}")
    if len(names) < len(found):
        raise LensFVError(f"{path}: two tasks are called {names.most_common(1)[0][0]}; rename a file, or read them one by one")
    return tuple(found)


def _of_sections(text: str, path: Path) -> list[Task]:
    answers: dict[str, dict[str, dict[str, None]]] = {}
    for name, (a, b, c, d) in sections(text, path):
        own = answers.setdefault(name, {})
        own.setdefault(a, {})[b] = None
        own.setdefault(c, {})[d] = None
    source = "Google's analogies (Mikolov et al. 2013)"
    return [
        Task(name, tuple(Pair(given, tuple(outputs)) for given, outputs in own.items()), source=source)
        for name, own in answers.items()
    ]
