"""What a library's folder says about its vectors, without their files being read."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lens_fv.errors import LensFVError
from lens_fv.files import write_whole

INDEX = "library.json"
FORMAT = 1


@dataclass(frozen=True)
class Entry:
    """What the index says about one vector, without its file being read.

    Attributes:
        name: of its relation; one library has every name once.
        file: where it is.
        model: which model it is of.
        group, family: of the relation.
        task_hash: fingerprint of the pairs.
        method: how it was made.
        layer: after which it is added.
        norm: its length, in units of the residual stream's there.
        logprob: mean log-probability of the validation answers with it, in nats.
        gain: how much more that is than without it.
        top1: share of validation items whose first token it gets right.
    """

    name: str
    file: Path
    model: str
    group: str
    family: str
    task_hash: str
    method: str
    layer: int
    norm: float
    logprob: float
    gain: float
    top1: float


def read_index(folder: Path) -> dict[str, Any]:
    """The index of a folder: "settings" it was built with, and "entries".

    Raises:
        LensFVError: see `VectorLibrary.open`.
    """
    path = folder / INDEX
    if not path.is_file():
        raise LensFVError(f"open the vector library {folder}: it has no {INDEX}; build one with `lens-fv library build`")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        if index["format"] > FORMAT:
            raise LensFVError(f"open {path}: format {index['format']}, this lens_fv reads up to {FORMAT}; update lens_fv")
        entries = [Entry(**{**entry, "file": folder / entry["file"]}) for entry in index["entries"]]
        return {"settings": index["settings"], "entries": entries}
    except (ValueError, KeyError, TypeError) as e:
        raise LensFVError(f"open {path}: not a library's index ({e}); build the library again") from e


def write_index(folder: Path, settings: dict[str, Any], entries: Iterable[Entry]) -> None:
    """Write the index of vectors that lie in the folder."""
    rows = [{**asdict(entry), "file": entry.file.name} for entry in entries]
    content = {"format": FORMAT, "settings": settings, "entries": rows}
    write_whole(folder / INDEX, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
