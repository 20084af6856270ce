"""Checkpoints of a run: load, switch a model to, export, and interpolate them with the model before fine-tuning."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save

from lens_fv.core.artefact_file import read_tensors
from lens_fv.core.choices import PositiveShare, checked
from lens_fv.core.files import atomic_folder, write_atomically
from lens_fv.errors import LensFVError
from lens_fv.finetuning.loop import MARKER
from lens_fv.finetuning.run import RUN, TASKS, UPDATES, Checkpoint, FinetuneRun
from lens_fv.model.exclusive import exclusive
from lens_fv.model.fingerprint import Fingerprint
from lens_fv.model.lens_model import LensModel
from lens_fv.model.loading import parse_dtype, wrap_transformers
from lens_fv.model.plain import write_weights
from lens_fv.model.quiet import quiet_logs, quiet_transformers
from lens_fv.model.weights import ModelSource, find_model, load_transformers


def load_checkpoint(
    run: FinetuneRun, checkpoint: Checkpoint | None, *, device: str | torch.device, dtype: torch.dtype
) -> tuple[Any, Any]:
    """Load a checkpoint, with low-rank updates merged, or the initial model, as a Hugging Face model and tokenizer.

    Raises:
        LensFVError: the checkpoint is damaged, belongs to another model or changes nothing.
    """
    source = find_model(run.source, None, None)._replace(name=run.about["model"])
    hf_model, tokenizer = load_transformers(source, device=device, dtype=dtype)
    expected, fingerprint = run.about.get("fingerprint"), Fingerprint(hf_model).value()
    if expected not in (None, fingerprint) and run.about["dtype"] == str(dtype).removeprefix("torch."):
        raise LensFVError(
            f"load the initial model of the run in {run.folder}: {run.source} holds other weights by now (fingerprint "
            f"{fingerprint}, was {expected}); put the model back there"
        )
    if checkpoint is None:
        return hf_model, tokenizer
    initial = {name: parameter.clone() for name, parameter in hf_model.named_parameters()}
    try:
        with quiet_logs():
            hf_model = load_into(hf_model, checkpoint.folder, run.about["settings"]["update"])
            if run.about["settings"]["update"] == "lora":
                hf_model = hf_model.merge_and_unload()
    except Exception as error:  # from safetensors, torch, PEFT or the Hub
        reason = " ".join(str(error).split())[:200]
        raise LensFVError(f"checkpoint {checkpoint.name} in {checkpoint.folder}: cannot be read ({reason})") from error
    if all(torch.equal(initial[name], parameter) for name, parameter in hf_model.named_parameters()):
        raise LensFVError(
            f"checkpoint {checkpoint.name} in {checkpoint.folder}: its weights are those that the run began with; nothing was "
            "trained, or it was saved wrongly"
        )
    return hf_model, tokenizer


def load_into(hf_model: Any, folder: Path, update: Literal["lora", "full"], *, trainable: bool = False) -> Any:
    """Load all weights of a checkpoint into a Hugging Face model, or put its low-rank updates on the model (PEFT)."""
    if update == "full":
        hf_model.load_state_dict(read_tensors(folder / "model.safetensors"), strict=False)
        hf_model.tie_weights()
        return hf_model
    from peft import PeftModel

    read_tensors(folder / UPDATES)  # without this file, PEFT would load a pickle
    return PeftModel.from_pretrained(hf_model, str(folder), is_trainable=trainable)


@checked
@torch.no_grad()
def switch_to_checkpoint(model: LensModel, run: FinetuneRun, checkpoint: Checkpoint | None) -> None:
    """Set a model's weights, in place, to those of a checkpoint or of the start of the run.

    The weights are processed as the model's own were ("raw" or "compat"), so measurements before and after are in the same
    basis. The model's revision becomes the checkpoint's name, so vectors from other checkpoints apply only with `force=True`.

    Args:
        model: Model that the run started from, loaded by `load_model`; it may be at any checkpoint.
        run: Fine-tuning run.
        checkpoint: One of `run.checkpoints`; None: the start of the run.

    Raises:
        LensFVError: the model is not the run's, or the checkpoint is damaged, belongs to another model or changes nothing.

    Example:
        >>> lens_fv.finetuning.switch_to_checkpoint(capable_model, run, run.checkpoints[-1])
        >>> lens_fv.finetuning.switch_to_checkpoint(capable_model, run, None)  # the weights before fine-tuning
    """
    if model.backend != "bridge" or model.name != run.about["model"]:
        raise LensFVError(
            f"switch {model.name} to {run.folder}: that is a run of {run.about['model']}, and takes a model from load_model"
        )
    hf_model, tokenizer = load_checkpoint(run, checkpoint, device=model.device, dtype=model.dtype)
    # The revision must match the weights: a model interrupted in between is refused until it is switched again.
    with exclusive(model, "is being switched to another checkpoint") as gate, gate.writing({"revision"}):
        if model.weight_processing == "raw":
            write_weights(model, dict(hf_model.named_parameters(remove_duplicate=False)))
        else:
            source = ModelSource(run.source, model.name, run.about["revision"])
            processed = wrap_transformers(hf_model, tokenizer, source, model.weight_processing, device=str(model.device))
            values: dict[str, torch.Tensor] = dict(processed.tl.named_parameters()) | dict(processed.tl.named_buffers())
            for name, tensor in (*model.tl.named_parameters(), *model.tl.named_buffers()):
                tensor.copy_(values[name])
            model.weights_changed(processed.fingerprint)
        model.revision = run.about["revision"] if checkpoint is None else f"{run.about['revision']}, {checkpoint.name}"


@checked
@contextmanager
def at_checkpoint(model: LensModel, run: FinetuneRun, checkpoint: Checkpoint) -> Iterator[LensModel]:
    r"""Give the model the weights of a checkpoint inside the block, and those of the start of the run afterwards.

    Args:
        model: Model that the run started from, loaded by `load_model`.
        run: Fine-tuning run.
        checkpoint: One of `run.checkpoints`.

    Raises:
        LensFVError: see `switch_to_checkpoint`.

    Example:
        >>> with lens_fv.finetuning.at_checkpoint(capable_model, run, run.checkpoints[-1]) as finetuned:
        ...     answer = finetuned.generate('Q: hot\nA:', max_new_tokens=1)
        >>> isinstance(answer, str)
        True
    """
    switch_to_checkpoint(model, run, checkpoint)
    try:
        yield model
    finally:
        switch_to_checkpoint(model, run, None)


@checked
def export_checkpoint(
    run: FinetuneRun, folder: str | Path, checkpoint: Checkpoint | None = None, *, dtype: torch.dtype | str | None = None
) -> Path:
    """Export a checkpoint as a standalone model for `load_model`, `finetune` and transformers.

    Args:
        run: Fine-tuning run.
        folder: New folder for the model; its name becomes the model's name.
        checkpoint: Checkpoint to export; default: the last one.
        dtype: Data type of the weights; default: that of training.

    Raises:
        LensFVError: the folder exists already or is not writable, the run has no checkpoints, or the checkpoint is unusable.

    Example:
        >>> path = lens_fv.finetuning.export_checkpoint(run, folder / 'exported')
        >>> lens_fv.load_model(path).name
        'exported'
    """
    torch_dtype = parse_dtype(dtype or run.about["dtype"])
    with atomic_folder(folder, what="export a checkpoint") as temporary:
        hf_model, tokenizer = load_checkpoint(run, checkpoint or run.checkpoint(), device="cpu", dtype=torch_dtype)
        with quiet_transformers():
            hf_model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
    return Path(folder)


@checked
def interpolate_weights(run: FinetuneRun, folder: str | Path, *, share: PositiveShare = 0.5) -> FinetuneRun:
    """Interpolate between a run's checkpoints and the model before fine-tuning (WiSE-FT: Wortsman et al. 2022).

    The new weights are (1 - share) x the initial weights + share x the checkpoint's weights. The result is an ordinary run,
    which can be tracked, switched to and exported.

    Args:
        run: Run with low-rank updates.
        folder: New folder for the interpolated run.
        share: Weight of the checkpoint, above 0 and at most 1.

    Raises:
        LensFVError: `share` out of range, an existing folder, a run with update "full", or a run without checkpoints.

    Example:
        >>> halfway = lens_fv.finetuning.interpolate_weights(run, folder / 'halfway', share=0.5)
        >>> len(halfway.checkpoints) == len(run.checkpoints)
        True
    """
    if run.about["settings"]["update"] != "lora":
        raise LensFVError(f"interpolate {run.folder}: it trained all weights; only low-rank updates can be interpolated here")
    if not run.checkpoints:
        raise LensFVError(f"interpolate {run.folder}: it has no checkpoints yet")
    with atomic_folder(folder, what=f"interpolate {run.folder}") as temporary:
        for checkpoint in run.checkpoints:
            copy = temporary / checkpoint.folder.relative_to(run.folder)
            copy.mkdir(parents=True)
            # The update is B A, so scaling one factor scales the whole update.
            tensors = read_tensors(checkpoint.folder / UPDATES)
            updates = {name: value * share if ".lora_B." in name else value for name, value in tensors.items()}
            write_atomically(copy / UPDATES, save(updates))
            for name in ("adapter_config.json", MARKER):
                shutil.copy(checkpoint.folder / name, copy)
        shutil.copytree(run.folder / TASKS, temporary / TASKS)
        write_atomically(temporary / RUN, json.dumps({**run.about, "averaged": share}, indent=1))
    return FinetuneRun(Path(folder))
