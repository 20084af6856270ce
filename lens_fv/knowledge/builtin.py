"""Entities included with lens_fv."""

from importlib.resources import as_file, files
from pathlib import Path
from typing import Literal

from lens_fv.core.choices import checked
from lens_fv.errors import LensFVError
from lens_fv.knowledge.entity import Entity
from lens_fv.knowledge.readers import parse_entities

BUILTIN = ("invented", "popular")


@checked
def load_entities(name_or_path: str | Path, *, by: Literal["entity", "row"] = "entity") -> tuple[Entity, ...]:
    """Load built-in entities by name, or entities from a file.

    "invented": 50 people, places, devices, events and works that do not exist. Each has four questions that its definition
    answers directly and four that require an inference from it. Without the definition, every candidate is equally plausible.
    "popular": 60 well-known things with two questions each, to test what an update should leave unchanged.

    Args:
        name_or_path: name of a built-in set, or path of a file.
        by: see `load_entities`.

    Raises:
        LensFVError: an unknown name, a missing file, or any error of `load_entities`.

    Example:
        >>> len(lens_fv.load_entities('invented'))
        50
    """
    if name_or_path in BUILTIN:
        with as_file(files("lens_fv.knowledge") / "data" / f"{name_or_path}.jsonl") as path:
            return parse_entities(path, by=by)
    path = Path(name_or_path)
    if not path.exists() and not path.suffix and len(path.parts) == 1:
        raise LensFVError(
            f"unknown entities {str(path)!r}: built in are {' and '.join(BUILTIN)}; your own are the path of a file"
        )
    return parse_entities(path, by=by)
