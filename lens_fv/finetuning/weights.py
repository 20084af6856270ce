"""Load and export the weights of a checkpoint in transformers' format."""

from pathlib import Path
from typing import Any

import torch

from lens_fv.core.artefact_file import read_tensors
from lens_fv.core.files import atomic_folder
from lens_fv.errors import LensFVError
from lens_fv.finetuning.run import UPDATES, Checkpoint, FinetuneRun
from lens_fv.model.fingerprint import Fingerprint
from lens_fv.model.loading import parse_dtype
from lens_fv.model.quiet import quiet_logs, quiet_transformers
from lens_fv.model.weights import find_model, load_transformers


def load_checkpoint(
    run: FinetuneRun, checkpoint: Checkpoint | None, *, device: str | torch.device, dtype: torch.dtype
) -> tuple[Any, Any]:
    """Load a checkpoint, with low-rank updates merged, or the initial model, as a Hugging Face model and tokenizer.

    Raises:
        LensFVError: the checkpoint is damaged, belongs to another model or changes nothing.
    """
    place = find_model(run.source, None, None)._replace(name=run.about["model"])
    hf_model, tokenizer = load_transformers(place, device=device, dtype=dtype)
    began, now = run.about.get("fingerprint"), Fingerprint(hf_model).value()
    if began not in (None, now) and run.about["dtype"] == str(dtype).removeprefix("torch."):
        raise LensFVError(
            f"load what the run in {run.folder} began with: {run.source} holds other weights by now (fingerprint {now}, was "
            f"{began}); put the model back there"
        )
    if checkpoint is None:
        return hf_model, tokenizer
    from peft import PeftModel

    before = {name: p.clone() for name, p in hf_model.named_parameters()}
    try:
        if run.about["settings"]["update"] == "full":
            load_all(hf_model, checkpoint.folder)
        else:
            with quiet_logs():
                read_tensors(checkpoint.folder / UPDATES)  # without this file, PEFT would load a pickle
                hf_model = PeftModel.from_pretrained(hf_model, str(checkpoint.folder)).merge_and_unload()
    except Exception as error:  # from safetensors, torch, PEFT or the Hub
        reason = " ".join(str(error).split())[:200]
        raise LensFVError(f"checkpoint {checkpoint.name} in {checkpoint.folder}: cannot be read ({reason})") from error
    if all(torch.equal(before[name], p) for name, p in hf_model.named_parameters()):
        raise LensFVError(
            f"checkpoint {checkpoint.name} in {checkpoint.folder}: its weights are those that the run began with; nothing was "
            "trained, or it was saved wrongly"
        )
    return hf_model, tokenizer


def load_all(hf_model: Any, folder: Path) -> None:
    """Load all weights of a checkpoint into a Hugging Face model, in place."""
    hf_model.load_state_dict(read_tensors(folder / "model.safetensors"), strict=False)
    hf_model.tie_weights()


def export_checkpoint(
    run: FinetuneRun, folder: str | Path, checkpoint: Checkpoint | None = None, *, dtype: torch.dtype | str | None = None
) -> Path:
    """Export a checkpoint as a standalone model for `load_model`, `finetune` and transformers.

    Args:
        run: fine-tuning run.
        folder: new folder for the model; its name becomes the model's name.
        checkpoint: checkpoint to export; default: the last one.
        dtype: data type of the weights; default: that of training.

    Raises:
        LensFVError: the folder exists already or is not writable, the run has no checkpoints, or the checkpoint is unusable.
    """
    kind = parse_dtype(dtype or run.about["dtype"])
    with atomic_folder(folder, what="export a checkpoint") as beside:
        hf_model, tokenizer = load_checkpoint(run, checkpoint or run.checkpoint(), device="cpu", dtype=kind)
        with quiet_transformers():
            hf_model.save_pretrained(beside)
            tokenizer.save_pretrained(beside)
    return Path(folder)
