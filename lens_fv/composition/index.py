"""What a library's folder says about its vectors, without their files being read."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lens_fv.core.files import inside, write_whole
from lens_fv.core.json_files import read_json, record, validated
from lens_fv.errors import LensFVError

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
        fingerprint: of the model's weights; None in a library of before there was one.
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
    fingerprint: str | None = None


@dataclass(frozen=True)
class Index:
    """What the file has to hold."""

    format: int
    settings: dict[str, Any]
    entries: list[dict[str, Any]]


def read_index(folder: Path) -> dict[str, Any]:
    """The index of a folder: "settings" it was built with, and "entries".

    Raises:
        LensFVError: see `VectorLibrary.open`.
    """
    path = folder / INDEX
    if not path.is_file():
        raise LensFVError(f"open the vector library {folder}: it has no {INDEX}; build one with `lens-fv library build`")
    where, remedy = f"open {path}: not a library's index", "build the library again"
    index = read_json(path, dict, what="the index of a vector library", remedy=remedy)
    newer = index.get("format")
    if isinstance(newer, int) and newer > FORMAT:
        raise LensFVError(f"open {path}: format {newer}, this lens_fv reads up to {FORMAT}; update lens_fv")
    validated(index, Index, where, remedy=remedy)
    entries: list[Entry] = []
    for row in index["entries"]:
        found = record(Entry, row, where, remedy=remedy)
        found["file"] = inside(folder, str(found["file"]), what="the index")
        entries.append(Entry(**found))
    return {"settings": index["settings"], "entries": entries}


def write_index(folder: Path, settings: dict[str, Any], entries: Iterable[Entry]) -> None:
    """Write the index of vectors that lie in the folder."""
    rows = [{**asdict(entry), "file": entry.file.name} for entry in entries]
    content = {"format": FORMAT, "settings": settings, "entries": rows}
    write_whole(folder / INDEX, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
