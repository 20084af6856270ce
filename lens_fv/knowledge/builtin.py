"""The entities that come with lens_fv."""

from importlib.resources import as_file, files
from pathlib import Path
from typing import Literal

from lens_fv.core.choices import checked
from lens_fv.errors import LensFVError
from lens_fv.knowledge.entity import Entity
from lens_fv.knowledge.readers import read_entities

BUILTIN = ("invented", "popular")


@checked
def load_entities(name_or_path: str | Path, *, by: Literal["entity", "row"] = "entity") -> tuple[Entity, ...]:
    """Built-in entities by their name, or else a file of entities by its path.

    "invented": 50 people, places, devices, events and works that do not exist, each with four questions that its definition
    answers and four whose answers follow from it. Without the definition every candidate is as good as another.
    "popular": 60 things that everybody knows, with two questions each: what an update should not change.

    Args:
        name_or_path: one of these, or a path.
        by: see `read_entities`.

    Raises:
        LensFVError: there is neither, or what `read_entities` raises.
    """
    if name_or_path in BUILTIN:
        with as_file(files("lens_fv.knowledge") / "data" / f"{name_or_path}.jsonl") as path:
            return read_entities(path, by=by)
    path = Path(name_or_path)
    if not path.exists() and not path.suffix and len(path.parts) == 1:
        raise LensFVError(
            f"unknown entities {str(path)!r}: built in are {' and '.join(BUILTIN)}; your own are the path of a file"
        )
    return read_entities(path, by=by)
