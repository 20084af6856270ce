"""The study of guided fine-tuning from end to end."""

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
    """Run the study, or go on with it: what the folder holds is not made again.

    Args:
        model: what `load_model` takes.
        folder: where runs, vectors and records are kept.
        settings: what is run.
        parts: some of `PARTS`, in their order.
        device: see `load_model`.
        dtype: see `load_model`.
        progress: draw progress bars.

    Raises:
        LensFVError: no such part, a folder with a run of other settings, or what the parts raise.
    """
    return run_parts(
        lambda: Study(model, folder, settings or GuidedSettings(), device=device, dtype=dtype, progress=progress), PARTS, parts
    )
