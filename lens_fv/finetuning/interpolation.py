"""Weight interpolation between a run's checkpoints and the model before fine-tuning (WiSE-FT)."""

import json
import shutil
from pathlib import Path

from safetensors.torch import save

from lens_fv.core.artefact_file import read_tensors
from lens_fv.core.choices import PositiveShare, checked
from lens_fv.core.files import write_atomically
from lens_fv.errors import LensFVError
from lens_fv.finetuning.run import DONE, RUN, TASKS, UPDATES, FinetuneRun


@checked
def interpolate_weights(run: FinetuneRun, folder: str | Path, *, share: PositiveShare = 0.5) -> FinetuneRun:
    """Interpolate between a run's checkpoints and the model before fine-tuning (WiSE-FT: Wortsman et al. 2022).

    The new weights are (1 - share) x the initial weights + share x the checkpoint's weights. The result is an ordinary run,
    which can be tracked, switched to and exported.

    Args:
        run: run with low-rank updates.
        folder: new folder for the interpolated run.
        share: weight of the checkpoint, above 0 and at most 1.

    Raises:
        LensFVError: `share` out of range, an existing folder, a run with update "full", or a run without checkpoints.
    """
    folder = Path(folder)
    if not 0 < share <= 1:
        raise LensFVError(f"average {run.folder} with a share of {share}: give one above 0, at most 1")
    if run.about["settings"]["update"] != "lora":
        raise LensFVError(f"average {run.folder}: it trained all weights; only low-rank updates can be averaged here")
    if folder.exists():
        raise LensFVError(f"average {run.folder} to {folder}: it is there already; choose another folder")
    if not run.checkpoints:
        raise LensFVError(f"average {run.folder}: it has no checkpoints yet")
    for checkpoint in run.checkpoints:
        at = folder / checkpoint.folder.relative_to(run.folder)
        at.mkdir(parents=True)
        # The update is B A, so scaling one factor scales the whole update.
        updates = {
            name: value * share if ".lora_B." in name else value
            for name, value in read_tensors(checkpoint.folder / UPDATES).items()
        }
        write_atomically(at / UPDATES, save(updates))
        shutil.copy(checkpoint.folder / "adapter_config.json", at)
        shutil.copy(checkpoint.folder / DONE, at)
    shutil.copytree(run.folder / TASKS, folder / TASKS)
    write_atomically(folder / RUN, json.dumps({**run.about, "averaged": share}, indent=1))
    return FinetuneRun(folder)
