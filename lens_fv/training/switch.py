"""A model in hand, made what it was at a checkpoint."""

from typing import Any

import torch
from safetensors.torch import load_file

from lens_fv.errors import LensFVError
from lens_fv.model.lens_model import LensModel
from lens_fv.model.loading import wrap_transformers
from lens_fv.model.quiet import hushed
from lens_fv.model.weights import Place, find_model, load_transformers
from lens_fv.training.run import Checkpoint, FinetuneRun


@torch.no_grad()
def switch(model: LensModel, run: FinetuneRun, checkpoint: Checkpoint | None) -> None:
    """Give a model, in place, the weights that it had at a checkpoint; or those that the run began with.

    They go through the same processing as the model's own did ("raw" or "compat"), so that what is measured before and after
    lives in the same basis. The model's revision becomes the checkpoint's name: vectors of other moments are then applied
    only with `force=True`.

    Args:
        model: the model that the run began with, at whatever moment; from `load_model`.
        run: the run.
        checkpoint: one of `run.checkpoints`; None: the beginning.

    Raises:
        LensFVError: another model than the run's, or a checkpoint that is damaged, of another model, or changes nothing.
    """
    if model.backend != "bridge" or model.name != run.about["model"]:
        raise LensFVError(
            f"switch {model.name} to {run.folder}: that is a run of {run.about['model']}, and takes a model from load_model"
        )
    place = find_model(run.source, None, None)._replace(name=model.name)
    hf_model, tokenizer = load_transformers(place, device=model.device, dtype=model.dtype)
    if checkpoint is not None:
        hf_model = _at(hf_model, checkpoint, run)
    said = Place(place.source, model.name, run.about["revision"])
    fresh = wrap_transformers(hf_model, tokenizer, said, model.weight_processing, device=str(model.device))
    for own, new in ((model.tl.named_parameters, fresh.tl.named_parameters), (model.tl.named_buffers, fresh.tl.named_buffers)):
        found: dict[str, torch.Tensor] = dict(new())
        for name, tensor in own():
            tensor.copy_(found[name])
    model.__dict__.pop("_has_unembed_bias", None)
    model.revision = run.about["revision"] if checkpoint is None else f"{run.about['revision']}, {checkpoint.name}"


def _at(hf_model: Any, checkpoint: Checkpoint, run: FinetuneRun) -> Any:
    """The model with the checkpoint's weights."""
    from peft import PeftModel

    before = {name: p.clone() for name, p in hf_model.named_parameters()}
    try:
        if run.about["settings"]["method"] == "full":
            hf_model.load_state_dict(load_file(checkpoint.folder / "model.safetensors"), strict=False)
            hf_model.tie_weights()
        else:
            with hushed():
                hf_model = PeftModel.from_pretrained(hf_model, str(checkpoint.folder)).merge_and_unload()
    except Exception as error:  # of safetensors, torch, PEFT or the Hub, depending on what is wrong
        reason = " ".join(str(error).split())[:200]
        raise LensFVError(f"checkpoint {checkpoint.name} in {checkpoint.folder}: cannot be read ({reason})") from error
    if all(torch.equal(before[name], p) for name, p in hf_model.named_parameters()):
        raise LensFVError(
            f"checkpoint {checkpoint.name} in {checkpoint.folder}: its weights are those that the run began with; nothing was "
            "trained, or it was saved wrongly"
        )
    return hf_model
