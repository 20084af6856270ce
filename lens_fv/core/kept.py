"""Artefacts that are made once: a folder keeps them under names that hold how they were made."""

import json
from collections.abc import Callable
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from lens_fv.core.artefact import Artefact, Provenance
from lens_fv.core.files import file_name

A = TypeVar("A", bound=Artefact)


def kept_at(folder: str | Path, kind: type[Artefact], provenance: Provenance) -> Path:
    """The file of a kind of artefact with this provenance, other versions of the software aside.

    Another model (by its name or its weights), task, seed, prompt or option is another name: such files stay beside each
    other, none is taken for another and none is overwritten.
    """
    said = {name: value for name, value in asdict(provenance).items() if name != "versions"}
    key = sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]
    return Path(folder) / f"{file_name(provenance.task)}-{kind.__name__}-{key}.safetensors"


def keep(folder: str | Path | None, kind: type[A], provenance: Provenance, make: Callable[[], A]) -> A:
    """The artefact that `folder` keeps, or else what `make` makes, which is then kept; without a folder just made.

    Raises:
        LensFVError: the file is damaged (delete it), or cannot be written.
    """
    if folder is None:
        return make()
    path = kept_at(folder, kind, provenance)
    if path.is_file():
        return kind.load(path)
    made = make()
    made.save(path)
    return made
