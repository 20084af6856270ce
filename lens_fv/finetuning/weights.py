"""The weights that a run had at a checkpoint, as transformers has them."""

from pathlib import Path
from typing import Any

import torch

from lens_fv.core.artefact_file import read_tensors
from lens_fv.core.files import new_folder
from lens_fv.errors import LensFVError
from lens_fv.finetuning.run import UPDATES, Checkpoint, FinetuneRun
from lens_fv.model.fingerprint import Fingerprint
from lens_fv.model.loading import dtype_named
from lens_fv.model.quiet import hushed, quiet_transformers
from lens_fv.model.weights import find_model, load_transformers


def load_checkpoint(
    run: FinetuneRun, checkpoint: Checkpoint | None, *, device: str | torch.device, dtype: torch.dtype
) -> tuple[Any, Any]:
    """The Hugging Face model and tokenizer of a checkpoint, low-rank updates merged; or those that the run began with.

    Raises:
        LensFVError: a checkpoint that is damaged, of another model, or changes nothing.
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
        if run.about["settings"]["method"] == "full":
            load_all(hf_model, checkpoint.folder)
        else:
            with hushed():
                read_tensors(checkpoint.folder / UPDATES)  # PEFT would take a pickle in its place
                hf_model = PeftModel.from_pretrained(hf_model, str(checkpoint.folder)).merge_and_unload()
    except Exception as error:  # of safetensors, torch, PEFT or the Hub, depending on what is wrong
        reason = " ".join(str(error).split())[:200]
        raise LensFVError(f"checkpoint {checkpoint.name} in {checkpoint.folder}: cannot be read ({reason})") from error
    if all(torch.equal(before[name], p) for name, p in hf_model.named_parameters()):
        raise LensFVError(
            f"checkpoint {checkpoint.name} in {checkpoint.folder}: its weights are those that the run began with; nothing was "
            "trained, or it was saved wrongly"
        )
    return hf_model, tokenizer


def load_all(hf_model: Any, folder: Path) -> None:
    """Give a Hugging Face model all weights of a checkpoint, in place."""
    hf_model.load_state_dict(read_tensors(folder / "model.safetensors"), strict=False)
    hf_model.tie_weights()


def export_checkpoint(
    run: FinetuneRun, folder: str | Path, checkpoint: Checkpoint | None = None, *, dtype: torch.dtype | str | None = None
) -> Path:
    """Write a checkpoint as a model of its own, which `load_model`, `finetune` and transformers take.

    Args:
        run: the run.
        folder: of the model; its name becomes the model's.
        checkpoint: default: the last one.
        dtype: default: what was trained in.

    Raises:
        LensFVError: a folder that is there already or cannot be written to, a run without checkpoints, or what is wrong with
            the checkpoint.
    """
    kind = dtype_named(dtype or run.about["dtype"])
    with new_folder(folder, what="export a checkpoint") as beside:
        hf_model, tokenizer = load_checkpoint(run, checkpoint or run.checkpoint(), device="cpu", dtype=kind)
        with quiet_transformers():
            hf_model.save_pretrained(beside)
            tokenizer.save_pretrained(beside)
    return Path(folder)
