"""Writing a task to a file that `read_task` reads."""

import json
from dataclasses import fields
from pathlib import Path

from lens_fv.core.files import write_whole
from lens_fv.tasks.task import Task


def write_task(task: Task, path: str | Path) -> Path:
    """Write a task in the format of the built-in relations.

    Raises:
        LensFVError: the file cannot be written.
    """
    about = {field.name: getattr(task, field.name) for field in fields(task) if field.name != "pairs"}
    content = {key: value for key, value in about.items() if value}
    content["pairs"] = [{"input": pair.input, "output": pair.outputs} for pair in task.pairs]
    return write_whole(Path(path), json.dumps(content, ensure_ascii=False, indent=1) + "\n")
