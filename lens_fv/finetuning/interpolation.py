"""A run whose every checkpoint is part of the way from its beginning: weights averaged with those before fine-tuning."""

import json
import shutil
from pathlib import Path

from safetensors.torch import save

from lens_fv.core.artefact_file import read_tensors
from lens_fv.core.choices import PositiveShare, checked
from lens_fv.core.files import write_whole
from lens_fv.errors import LensFVError
from lens_fv.finetuning.run import DONE, RUN, TASKS, UPDATES, FinetuneRun


@checked
def interpolate_weights(run: FinetuneRun, folder: str | Path, *, share: PositiveShare = 0.5) -> FinetuneRun:
    """Average a run's checkpoints with the model that it began with (Wise-FT: Wortsman et al. 2022).

    Weights become (1 - share) x those of the beginning + share x those of the checkpoint. What comes out is a run like any
    other, to be followed, switched to and exported.

    Args:
        run: of low-rank updates.
        folder: a new one, for the averaged run.
        share: of the checkpoint, from 0 to 1; 0 would leave nothing of it.

    Raises:
        LensFVError: another share, a folder that is there already, a run of all weights, or one without checkpoints.
    """
    folder = Path(folder)
    if not 0 < share <= 1:
        raise LensFVError(f"average {run.folder} with a share of {share}: give one above 0, at most 1")
    if run.about["settings"]["method"] != "lora":
        raise LensFVError(f"average {run.folder}: it trained all weights; only low-rank updates can be averaged here")
    if folder.exists():
        raise LensFVError(f"average {run.folder} to {folder}: it is there already; choose another folder")
    if not run.checkpoints:
        raise LensFVError(f"average {run.folder}: it has no checkpoints yet")
    for checkpoint in run.checkpoints:
        at = folder / checkpoint.folder.relative_to(run.folder)
        at.mkdir(parents=True)
        # The update is B A: with one of the two scaled, the whole of it is.
        updates = {
            name: value * share if ".lora_B." in name else value
            for name, value in read_tensors(checkpoint.folder / UPDATES).items()
        }
        write_whole(at / UPDATES, save(updates))
        shutil.copy(checkpoint.folder / "adapter_config.json", at)
        shutil.copy(checkpoint.folder / DONE, at)
    shutil.copytree(run.folder / TASKS, folder / TASKS)
    write_whole(folder / RUN, json.dumps({**run.about, "averaged": share}, indent=1))
    return FinetuneRun(folder)
