"""The index of a library folder, which describes its vectors without reading their files."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lens_fv.core.files import path_inside, write_atomically
from lens_fv.core.json_files import read_json, record, validated
from lens_fv.errors import LensFVError

INDEX = "library.json"
FORMAT = 1


@dataclass(frozen=True)
class Entry:
    """The index entry of one vector.

    Attributes:
        name: name of its relation, unique within a library.
        file: path of the vector's file.
        model: name of the model it was made for.
        group, family: group and family of the relation.
        task_hash: fingerprint of the task's pairs.
        method: method that made the vector.
        layer: layer after which the vector is added.
        norm: norm relative to that of the residual stream at this layer.
        logprob: mean log-probability of the validation answers with the vector, in nats.
        gain: increase of that log-probability over no vector, in nats.
        top1: share of validation items with a correct first token.
        fingerprint: fingerprint of the model's weights; None in libraries from before fingerprints existed.
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
    """Required content of the index file."""

    format: int
    settings: dict[str, Any]
    entries: list[dict[str, Any]]


def read_index(folder: Path) -> dict[str, Any]:
    """Read the index of a folder: the build's "settings" and the "entries".

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
        found["file"] = path_inside(folder, str(found["file"]), what="the index")
        entries.append(Entry(**found))
    return {"settings": index["settings"], "entries": entries}


def write_index(folder: Path, settings: dict[str, Any], entries: Iterable[Entry]) -> None:
    """Write the index of the vectors in the folder."""
    rows = [{**asdict(entry), "file": entry.file.name} for entry in entries]
    content = {"format": FORMAT, "settings": settings, "entries": rows}
    write_atomically(folder / INDEX, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
