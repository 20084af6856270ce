"""The index of a library folder, which describes its vectors without reading their files."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from lens_fv.core.files import path_inside, write_atomically
from lens_fv.core.json_files import read_json, record, validated
from lens_fv.errors import LensFVError

INDEX = "library.json"
FORMAT = 1


@dataclass(frozen=True)
class Entry:
    """The index entry of one vector.

    Attributes:
        name: Name of its relation, unique within a library.
        file: Path of the vector's file.
        model: Name of the model it was made for.
        group, family: Group and family of the relation.
        task_hash: Fingerprint of the task's pairs.
        method: Method that made the vector.
        layer: Layer after which the vector is added.
        norm: Norm relative to that of the residual stream at this layer.
        logprob: Mean log-probability of the validation answers with the vector, in nats.
        gain: Increase of that log-probability over no vector, in nats.
        top1: Share of validation items with a correct first token.
        fingerprint: Fingerprint of the model's weights; None in libraries from before fingerprints existed.
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


class Index(NamedTuple):
    """The settings of a build, and the entries of its vectors."""

    settings: dict[str, Any]
    entries: list[Entry]


@dataclass(frozen=True)
class _IndexFile:
    format: int
    settings: dict[str, Any]
    entries: list[dict[str, Any]]


def read_index(folder: Path) -> Index:
    """Read the index of a folder.

    Raises:
        LensFVError: see `VectorLibrary.load`.
    """
    path = folder / INDEX
    if not path.is_file():
        raise LensFVError(f"open the vector library {folder}: it has no {INDEX}; build one with `lens-fv library build`")
    context, remedy = f"open {path}: not a library's index", "build the library again"
    content = read_json(path, dict, what="the index of a vector library", remedy=remedy)
    newer = content.get("format")
    if isinstance(newer, int) and newer > FORMAT:
        raise LensFVError(f"open {path}: format {newer}, this lens_fv reads up to {FORMAT}; update lens_fv")
    file: _IndexFile = validated(content, _IndexFile, context, remedy=remedy)
    entries: list[Entry] = []
    for row in file.entries:
        entry = record(Entry, row, context, remedy=remedy)
        entries.append(replace(entry, file=path_inside(folder, str(entry.file), what="the index")))
    return Index(file.settings, entries)


def write_index(folder: Path, settings: dict[str, Any], entries: Iterable[Entry]) -> None:
    """Write the index of the vectors in the folder."""
    rows = [{**asdict(entry), "file": entry.file.name} for entry in entries]
    content = {"format": FORMAT, "settings": settings, "entries": rows}
    write_atomically(folder / INDEX, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
