"""The complete study of relations."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lens_fv.model.lens_model import LensModel
from lens_fv.studies.parts import run_parts
from lens_fv.studies.relational.alignment import align
from lens_fv.studies.relational.arithmetic import add_up
from lens_fv.studies.relational.carrying import carry
from lens_fv.studies.relational.completion import complete, transfer
from lens_fv.studies.relational.reading import decode
from lens_fv.studies.relational.settings import RelationalSettings, Study
from lens_fv.studies.relational.solving import solve
from lens_fv.studies.relational.tuning import compare, vary

PARTS: Mapping[str, Callable[[Study], None]] = {
    "completion": complete,
    "transfer": transfer,
    "analogies": solve,
    "decoding": decode,
    "tuning": vary,
    "carrying": carry,
    "kinds": compare,
    "lists": add_up,
    "alignment": align,
}


def run_relational(
    model: LensModel,
    folder: str | Path,
    settings: RelationalSettings | None = None,
    *,
    parts: Sequence[str] = tuple(PARTS),
    progress: bool = False,
) -> Study:
    """Run or resume the study; results already in the folder are not recomputed.

    Args:
        model: Model to study.
        folder: Folder for vectors and records.
        settings: Settings of the study.
        parts: Names of parts from `PARTS`, which run in the order of `PARTS`.
        progress: Show progress bars.

    Raises:
        LensFVError: a part is unknown, the folder holds a run with other settings, or a part raises.
    """
    return run_parts(lambda: Study(model, folder, settings or RelationalSettings(), progress=progress), PARTS, parts)
