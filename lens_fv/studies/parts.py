"""Named parts of a study."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from lens_fv.core.choices import nearest
from lens_fv.core.provenance import versions
from lens_fv.core.store import ResultStore
from lens_fv.errors import LensFVError
from lens_fv.model.loading import dtype_named

S = TypeVar("S")


def note_versions(folder: Path, dtype: torch.dtype | str | None) -> None:
    """Record the software versions and data type of a study once, in FOLDER/versions.json.

    Args:
        folder: Folder of the study.
        dtype: Data type of the weights, as for `load_model`.

    Raises:
        LensFVError: the study was started with weights of another data type.
    """
    records = ResultStore(folder / "versions.json")
    for name, value in versions().items():
        records.get_or_compute(name, partial(str, value))
    weights = str(dtype_named(dtype)).removeprefix("torch.")
    if (begun := records.get_or_compute("weights", lambda: weights)) != weights:
        raise LensFVError(f"go on in {folder}: its weights were {begun}, now they are {weights}; choose another folder")


def check_parts(parts: Sequence[str], known: Collection[str]) -> None:
    """Check the names of parts.

    Raises:
        LensFVError: the study has no part of this name.
    """
    unknown = [part for part in parts if part not in known]
    if unknown:
        raise LensFVError(
            f"run part {', '.join(unknown)} of the study: there are {', '.join(known)}{nearest(unknown[0], known)}"
        )


def run_parts(begin: Callable[[], S], known: Mapping[str, Callable[[S], None]], parts: Sequence[str]) -> S:
    """Run parts of a study in sequence.

    Args:
        begin: Creates the study; called after the part names are checked.
        known: All parts, in the order in which they run.
        parts: Names of the parts to run.

    Raises:
        LensFVError: a part is unknown, or the study or one of its parts raises.
    """
    check_parts(parts, known)
    study = begin()
    for name, run in known.items():
        if name in parts:
            run(study)
    return study
