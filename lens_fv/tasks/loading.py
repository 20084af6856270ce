"""Built-in relations, and loading of any task by name or path."""

from difflib import get_close_matches
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path

from lens_fv.errors import LensFVError
from lens_fv.tasks.folders import parse_task_folder
from lens_fv.tasks.readers import parse_task_file
from lens_fv.tasks.task import Task

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
    kinds = {name: (task.group, task.family) for name in names for task in [load_task(name)]}
    found = tuple(name for name in names if group in (None, kinds[name][0]) and family in (None, kinds[name][1]))
    if not found:
        known = "; ".join(f"{a} / {b}" for a, b in sorted(set(kinds.values())))
        raise LensFVError(f"relations of group {group!r}, family {family!r}: there are none; known are {known}")
    return found


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
        name_or_path: name of a built-in relation, or a file in any format that `lens_fv.tasks.readers.parse_task_file` reads.
        name: name of a file's task; default: the name in the file, or the file's own.
        input_column: column or key of a file's inputs, where several could be meant.
        output_column: likewise for the outputs.
        alternatives: separator of acceptable outputs in one text, such as "/"; "": none.

    Raises:
        LensFVError: no such relation or file, or the file is not a task, or can be read in more than one way.

    Example:
        >>> import lens_fv
        >>> lens_fv.load_task("antonym").pairs[0]
        Pair(input='hot', outputs=('cold', 'cool'))
    """
    asked, told = str(name_or_path), (name, input_column, output_column, alternatives) != (None,) * 4
    if asked in list_tasks() and not told:
        return _built_in(asked)
    path = Path(name_or_path)
    if told or path.exists() or path.suffix or len(path.parts) > 1:
        return parse_task_file(
            path, name=name, input_column=input_column, output_column=output_column, alternatives=alternatives
        )
    near = " or ".join(get_close_matches(asked.lower(), list_tasks(), n=3))
    hint = f"did you mean {near}? " if near else ""
    raise LensFVError(
        f"unknown task {asked!r}: {hint}`lens-fv tasks` or list_tasks() lists the {len(list_tasks())} built-in ones, "
        "a task of your own is the path of a file"
    )


def load_tasks(name_or_path: str | Path) -> tuple[Task, ...]:
    """Load a built-in relation by name, or all tasks of a folder or file by path; see `load_tasks`.

    Raises:
        LensFVError: no such relation, folder or file, or a file is not a task.
    """
    known = str(name_or_path) in list_tasks() or not Path(name_or_path).exists()
    return (load_task(name_or_path),) if known else parse_task_folder(name_or_path)


@cache
def _built_in(name: str) -> Task:
    """Read a built-in relation and cache it, because neither the file nor a task changes."""
    with as_file(_DATA / f"{name}.json") as path:
        return parse_task_file(path)
