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
    config = replace(config, target_modules=[WRAPPED])
    with exclusive(model, "has an adapter in it") as gate:
        gate.put(vars(gate), "adapted", True)
        for parameter in model.tl.parameters():
            gate.afterwards(partial(parameter.requires_grad_, parameter.requires_grad))
        layers: dict[tuple[int, str], Any] = {}
        for place, wrapper in wrappers.items():
            gate.keep(wrapper._modules, WRAPPED)  # where PEFT inserts its layer
            gate.keep(vars(wrapper), "peft_config")
            LoraModel(wrapper, config, OWN_ADAPTER)
            layers[place] = wrapper.get_submodule(WRAPPED)
        yield {
            place: Update(lora.lora_A[OWN_ADAPTER].weight, lora.lora_B[OWN_ADAPTER].weight) for place, lora in layers.items()
        }


def projections(model: LensModel) -> dict[tuple[int, str], nn.Module]:
    """TransformerLens' wrappers of the linear maps to queries ("q") and values ("v"), by layer and part.

    Raises:
        LensFVError: the model does not have them as linear maps of the same shape in all layers.
    """
    wrappers: dict[tuple[int, str], nn.Module] = {}
    shapes: set[tuple[str, tuple[int, ...]]] = set()
    for layer in model.attention_layers:
        for part in PARTS:
            wrapper = getattr(model.tl.blocks[layer].attn, part, None)
            linear = getattr(wrapper, WRAPPED, None)
            if isinstance(wrapper, nn.Module) and isinstance(linear, nn.Linear):
                wrappers[layer, part] = wrapper
                shapes.add((part, tuple(linear.weight.shape)))
    if len(wrappers) < len(model.attention_layers) * len(PARTS) or len(shapes) != len(PARTS):
        raise LensFVError(
            f"adapt {model.name}: its query and value projections are not linear maps of one shape in all layers that "
            f"{model.backend} gives access to; compare it without an adapter"
        )
    return wrappers
