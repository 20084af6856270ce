"""PEFT's low-rank layers inside a TransformerLens model, put in and taken out."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

from peft import LoraConfig, LoraModel
from torch import nn

from lens_fv.errors import LensFVError
from lens_fv.model.lens_model import LensModel
from lens_fv.model.plain import WRAPPED

PARTS = ("q", "v")
ADAPTER = "lens_fv"


class Update(NamedTuple):
    """What PEFT trains of one projection."""

    down: nn.Parameter
    up: nn.Parameter


@contextmanager
def adapted(model: LensModel, config: LoraConfig) -> Iterator[dict[tuple[int, str], Update]]:
    """Inside the block PEFT's layers stand around the query and value projections; gives their matrices by layer and part.

    Raises:
        LensFVError: the model's projections are out of reach.
    """
    wrappers = projections(model)
    frozen = [(p, p.requires_grad) for p in model.tl.parameters()]
    # One adapter a projection: bridges pass names on to what they wrap, which PEFT's search of a whole model trips over.
    one = replace(config, target_modules=[WRAPPED])
    tuners: list[LoraModel] = []
    try:
        tuners += (LoraModel(wrapper, one, ADAPTER) for wrapper in wrappers.values())
        layers: dict[tuple[int, str], Any] = {place: wrapper.get_submodule(WRAPPED) for place, wrapper in wrappers.items()}
        yield {place: Update(lora.lora_A[ADAPTER].weight, lora.lora_B[ADAPTER].weight) for place, lora in layers.items()}
    finally:
        for tuner in tuners:
            tuner.unload()
        for parameter, before in frozen:
            parameter.requires_grad_(before)


def projections(model: LensModel) -> dict[tuple[int, str], nn.Module]:
    """TransformerLens' wrappers of the linear maps to queries ("q") and values ("v"), by layer and part.

    Raises:
        LensFVError: the model does not keep them as linear maps of the same shape in all layers.
    """
    found = {(at, part): getattr(model.tl.blocks[at].attn, part, None) for at in model.attention_layers for part in PARTS}
    wrappers = {place: wrapper for place, wrapper in found.items() if isinstance(wrapper, nn.Module)}
    maps = [(part, getattr(wrapper, WRAPPED, None)) for (_, part), wrapper in wrappers.items()]
    shapes = {(part, tuple(m.weight.shape)) for part, m in maps if isinstance(m, nn.Linear)}
    if len(wrappers) < len(found) or len(shapes) != len(PARTS) or not all(isinstance(m, nn.Linear) for _, m in maps):
        raise LensFVError(
            f"adapt {model.name}: its query and value projections are not linear maps of one shape in all layers that "
            f"{model.backend} gives access to; compare it without an adapter"
        )
    return wrappers
