"""Parts of a study, by name."""

from collections.abc import Collection, Sequence

from lens_fv.errors import LensFVError


def check_parts(parts: Sequence[str], known: Collection[str]) -> None:
    """Complain about a part that a study does not have.

    Raises:
        LensFVError: one of them.
    """
    unknown = [part for part in parts if part not in known]
    if unknown:
        raise LensFVError(f"run part {', '.join(unknown)} of the study: there are {', '.join(known)}")
