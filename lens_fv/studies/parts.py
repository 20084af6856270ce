"""Parts of a study, by name."""

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
    """Write down, once, what a study is made with: FOLDER/versions.json.

    Args:
        folder: of the study.
        dtype: of the weights, as `load_model` takes it.

    Raises:
        LensFVError: the study was begun with weights of another type.
    """
    records = ResultStore(folder / "versions.json")
    for name, value in versions().items():
        records.get_or_compute(name, partial(str, value))
    weights = str(dtype_named(dtype)).removeprefix("torch.")
    if (begun := records.get_or_compute("weights", lambda: weights)) != weights:
        raise LensFVError(f"go on in {folder}: its weights were {begun}, now they are {weights}; choose another folder")


def check_parts(parts: Sequence[str], known: Collection[str]) -> None:
    """Complain about a part that a study does not have.

    Raises:
        LensFVError: one of them.
    """
    unknown = [part for part in parts if part not in known]
    if unknown:
        raise LensFVError(
            f"run part {', '.join(unknown)} of the study: there are {', '.join(known)}{nearest(unknown[0], known)}"
        )


def run_parts(begin: Callable[[], S], known: Mapping[str, Callable[[S], None]], parts: Sequence[str]) -> S:
    """Run parts of a study one after another.

    Args:
        begin: makes the study, if it has all of the parts.
        known: the parts that there are, in the order in which they run.
        parts: some of them.

    Raises:
        LensFVError: no such part, or what the study and its parts raise.
    """
    check_parts(parts, known)
    study = begin()
    for name, run in known.items():
        if name in parts:
            run(study)
    return study
