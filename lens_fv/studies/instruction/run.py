"""Run the study of instructed tasks."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from lens_fv.studies.instruction.injection import compare_counterparts, inject
from lens_fv.studies.instruction.sequences import follow_sequences
from lens_fv.studies.instruction.settings import InstructionSettings, Study
from lens_fv.studies.instruction.start import teach
from lens_fv.studies.parts import run_parts

PARTS: Mapping[str, Callable[[Study], None]] = {
    "start": teach,
    "sequences": follow_sequences,
    "injection": inject,
    "counterparts": compare_counterparts,
}


def run_instruction(
    model: str,
    folder: str | Path,
    settings: InstructionSettings | None = None,
    *,
    parts: Sequence[str] = tuple(PARTS),
    device: str | None = None,
    dtype: torch.dtype | str | None = None,
    progress: bool = False,
) -> Study:
    """Run the study, or resume it: results already in the folder are not computed again.

    Args:
        model: model name or path for `load_model`.
        folder: folder for runs, vectors, measurements and records.
        settings: settings of the study.
        parts: names from `PARTS` to run, in their order there.
        device: see `load_model`.
        dtype: see `load_model`.
        progress: whether to show progress bars.

    Raises:
        LensFVError: an unknown part, a folder with a run of other settings, or any error of the parts.
    """
    return run_parts(
        lambda: Study(model, folder, settings or InstructionSettings(), device=device, dtype=dtype, progress=progress),
        PARTS,
        parts,
    )
