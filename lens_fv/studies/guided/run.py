"""Run the study of guided fine-tuning."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from lens_fv.studies.guided.methods import ablate, choose, compare_methods, measure_costs
from lens_fv.studies.guided.settings import GuidedSettings, Study
from lens_fv.studies.instruction.start import teach
from lens_fv.studies.parts import run_parts

PARTS: Mapping[str, Callable[[Study], None]] = {
    "start": lambda study: teach(study.ground),
    "choosing": choose,
    "methods": compare_methods,
    "ablations": ablate,
    "costs": measure_costs,
}


def run_guided(
    model: str,
    folder: str | Path,
    settings: GuidedSettings | None = None,
    *,
    parts: Sequence[str] = tuple(PARTS),
    device: str | None = None,
    dtype: torch.dtype | str | None = None,
    progress: bool = False,
) -> Study:
    """Run the study, or resume it: results already in the folder are not computed again.

    Args:
        model: model name or path for `load_model`.
        folder: folder for runs, vectors and records.
        settings: settings of the study.
        parts: names from `PARTS` to run, in their order there.
        device: see `load_model`.
        dtype: see `load_model`.
        progress: whether to show progress bars.

    Raises:
        LensFVError: an unknown part, a folder with a run of other settings, or any error of the parts.
    """
    return run_parts(
        lambda: Study(model, folder, settings or GuidedSettings(), device=device, dtype=dtype, progress=progress), PARTS, parts
    )
