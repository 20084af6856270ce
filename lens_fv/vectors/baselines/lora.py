"""Insertion and removal of PEFT's low-rank layers in a TransformerLens model."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from peft import LoraConfig, LoraModel
from torch import nn

from lens_fv.errors import LensFVError
from lens_fv.model.exclusive import exclusive
from lens_fv.model.lens_model import LensModel
from lens_fv.model.measuring import OWN_ADAPTER
from lens_fv.model.plain import WRAPPED

PARTS = ("q", "v")


class Update(NamedTuple):
    """The two matrices that PEFT trains for one projection."""

    down: nn.Parameter
    up: nn.Parameter


@contextmanager
def adapted(model: LensModel, config: LoraConfig) -> Iterator[dict[tuple[int, str], Update]]:
    """Wrap the query and value projections in PEFT's layers inside the block; yields their matrices by layer and part.

    Raises:
        LensFVError: the model's projections are not accessible.
    """
    wrappers = projections(model)
    # One adapter per projection: bridges forward names to the modules they wrap, which breaks PEFT's search of a whole model.
    one = replace(config, target_modules=[WRAPPED])
    with exclusive(model, "has an adapter in it") as gate:
        gate.put(vars(gate), "adapted", True)
        for parameter in model.tl.parameters():
            gate.afterwards(partial(parameter.requires_grad_, parameter.requires_grad))
        layers: dict[tuple[int, str], Any] = {}
        for place, wrapper in wrappers.items():
            gate.keep(wrapper._modules, WRAPPED)  # where PEFT inserts its layer
            gate.keep(vars(wrapper), "peft_config")
            LoraModel(wrapper, one, OWN_ADAPTER)
            layers[place] = wrapper.get_submodule(WRAPPED)
        yield {
            place: Update(lora.lora_A[OWN_ADAPTER].weight, lora.lora_B[OWN_ADAPTER].weight) for place, lora in layers.items()
        }


def projections(model: LensModel) -> dict[tuple[int, str], nn.Module]:
    """TransformerLens' wrappers of the linear maps to queries ("q") and values ("v"), by layer and part.

    Raises:
        LensFVError: the model does not have them as linear maps of the same shape in all layers.
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
