"""Merging of several libraries into one."""

from collections.abc import Sequence
from pathlib import Path

from lens_fv.composition.index import read_index, write_index
from lens_fv.composition.library import VectorLibrary
from lens_fv.core.store import differences
from lens_fv.errors import LensFVError

ALIKE = ("model", "fingerprint", "method")


def merge_libraries(folders: Sequence[str | Path], folder: str | Path) -> VectorLibrary:
    """Merge libraries made with the same settings into one, in a folder without a library.

    Args:
        folders: folders of the libraries, at least two.
        folder: folder for the merged library.

    Raises:
        LensFVError: the libraries differ in model or settings, two have a vector of the same name, a vector is damaged, or
            the folder already holds a library.
    """
    folders = [Path(each) for each in folders]
    if len(folders) < 2:
        raise LensFVError(f"merge {len(folders)} libraries: give at least two")
    settings = [read_index(each)["settings"] for each in folders]
    libraries = [VectorLibrary.open(each) for each in folders]
    for other, its, library in zip(folders[1:], settings[1:], libraries[1:], strict=True):
        if different := differences(settings[0], its) or (not its and _otherwise(libraries[0], library)):
            raise LensFVError(
                f"merge libraries: {folders[0]} was made with {', '.join(different).replace('(asked: ', f'({other}: ')}; "
                "vectors that are made otherwise do not go together"
            )
    merged = libraries[0]
    for library in libraries[1:]:
        merged = merged.merge(library)
    saved = merged.save(folder)
    write_index(Path(folder), settings[0], saved.entries)
    return saved


def _otherwise(one: VectorLibrary, other: VectorLibrary) -> list[str]:
    """Differences between vectors of libraries without recorded settings, such as copies."""
    made = [{what: ", ".join(sorted({str(getattr(e, what)) for e in each.entries})) for what in ALIKE} for each in (one, other)]
    return differences(*made) if one.entries and other.entries else []
