"""Switch a loaded model to the weights of a checkpoint."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lens_fv.errors import LensFVError
from lens_fv.finetuning.run import Checkpoint, FinetuneRun
from lens_fv.finetuning.weights import load_checkpoint
from lens_fv.model.exclusive import exclusive
from lens_fv.model.lens_model import LensModel
from lens_fv.model.loading import wrap_transformers
from lens_fv.model.plain import write_weights
from lens_fv.model.weights import ModelSource


@torch.no_grad()
def switch_to_checkpoint(model: LensModel, run: FinetuneRun, checkpoint: Checkpoint | None) -> None:
    """Set a model's weights, in place, to those of a checkpoint or of the start of the run.

    The weights are processed as the model's own were ("raw" or "compat"), so measurements before and after are in the same
    basis. The model's revision becomes the checkpoint's name, so vectors from other checkpoints apply only with `force=True`.

    Args:
        model: model that the run started from, loaded by `load_model`; it may be at any checkpoint.
        run: fine-tuning run.
        checkpoint: one of `run.checkpoints`; None: the start of the run.

    Raises:
        LensFVError: the model is not the run's, or the checkpoint is damaged, belongs to another model or changes nothing.
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
            said = ModelSource(run.source, model.name, run.about["revision"])
            fresh = wrap_transformers(hf_model, tokenizer, said, model.weight_processing, device=str(model.device))
            found: dict[str, torch.Tensor] = dict(fresh.tl.named_parameters()) | dict(fresh.tl.named_buffers())
            for name, tensor in (*model.tl.named_parameters(), *model.tl.named_buffers()):
                tensor.copy_(found[name])
            model.weights_changed(fresh.fingerprint)
        model.revision = run.about["revision"] if checkpoint is None else f"{run.about['revision']}, {checkpoint.name}"


@contextmanager
def at_checkpoint(model: LensModel, run: FinetuneRun, checkpoint: Checkpoint) -> Iterator[LensModel]:
    """Inside the block the model has the weights of a checkpoint; afterwards those that the run began with.

    Args:
        model: The model that the run began with, from `load_model`.
        run: The run.
        checkpoint: One of `run.checkpoints`.

    Raises:
        LensFVError: See `switch_to_checkpoint`.
    """
    switch_to_checkpoint(model, run, checkpoint)
    try:
        yield model
    finally:
        switch_to_checkpoint(model, run, None)
