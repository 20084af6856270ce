"""The transformers model underlying a wrapped one, for training and for writing to its weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lens_fv.errors import LensFVError
from lens_fv.model.exclusive import exclusive, gate_of, share_gate
from lens_fv.model.fingerprint import WRAPPED, joint_parts
from lens_fv.model.lens_model import LensModel
from lens_fv.model.measuring import check_weights
from lens_fv.model.quiet import quiet_transformers
from lens_fv.model.weights import writes_bos


def own_weights(model: LensModel) -> dict[str, Tensor]:
    """Return the weights by transformers' names, as tensors rather than copies; writes to them are detected.

    Raises:
        LensFVError: a model with weights processed by TransformerLens, or with an adapter.
    """
    if model.backend != "bridge" or model.weight_processing != "raw":
        raise LensFVError(
            f"change the weights of {model.name}: TransformerLens has processed them ({model.backend}, "
            f"{model.weight_processing}); load it with load_model and weight_processing='raw'"
        )
    if gate_of(model).adapted:
        raise LensFVError(
            f"change the weights of {model.name} inside an adapter's block: they have other names there; end it first"
        )
    check_weights(model)
    parameters = model.tl.original_model.named_parameters(remove_duplicate=False)
    return {_plain_name(name): parameter.detach() for name, parameter in parameters}


def plain_tokenizer(model: LensModel) -> Any:
    """Return the original tokenizer, as TransformerLens makes every tokenizer prepend a beginning-of-sequence token."""
    tokenizer = deepcopy(model.tokenizer)
    if not model.prepend_bos and writes_bos(tokenizer):
        tokenizer.add_bos_token = False
    return tokenizer


def plain_model(model: LensModel, *, dropout: bool = True) -> Any:
    """Return a transformers model without TransformerLens that shares the memory of the weights of `model`.

    It runs and trains at the usual speed of transformers. `model` sees weights changed by training at the latest after
    `write_weights`.

    Args:
        model: The model.
        dropout: Train with the dropout of the configuration; False: no dropout.

    Raises:
        LensFVError: an error from `own_weights`.
    """
    from accelerate import init_empty_weights
    from transformers.initialization import no_init_weights

    weights = own_weights(model)
    original = model.tl.original_model
    config = deepcopy(original.config)
    for name, value in vars(config).items():
        if not dropout and "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0)
    with quiet_transformers(), no_init_weights(), init_empty_weights(include_buffers=False):
        plain = type(original)(config)
    buffers = {_plain_name(name): buffer for name, buffer in original.named_buffers()}
    for name, buffer in plain.named_buffers():
        buffer.data = buffers[name].data.clone() if name in buffers else buffer.data.to(model.device)
    for name, _ in list(plain.named_parameters(remove_duplicate=False)):
        module, _, last = name.rpartition(".")
        setattr(plain.get_submodule(module), last, nn.Parameter(weights[name], requires_grad=False))
    plain.tie_weights()
    share_gate(plain, model)
    return plain.eval()


@torch.no_grad()
def write_weights(model: LensModel, values: Mapping[str, Tensor]) -> None:
    """Write values to some of the model's weights, in place.

    Args:
        model: The model.
        values: New values by transformers' names.

    Raises:
        LensFVError: an unknown name, a wrong shape, or an error from `own_weights`.
    """
    weights = own_weights(model)
    for name, value in values.items():
        if name not in weights or weights[name].shape != value.shape:
            has = f"has {tuple(weights[name].shape)} there" if name in weights else "has no such weight"
            raise LensFVError(f"write {name} {tuple(value.shape)} into {model.name}: it {has}")
    with exclusive(model, "is being written to") as gate, gate.writing(set(values)):
        for name, value in values.items():
            weights[name].copy_(value)
        for joint in model.tl.original_model.modules():
            for pairs in joint_parts(joint):
                for part, value in pairs:
                    part.copy_(value)
        model.__dict__.pop("_has_unembed_bias", None)


@contextmanager
def weights_written(model: LensModel, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Replace some weights inside the block, and restore them bit for bit afterwards."""
    with exclusive(model, "has other weights for a while") as gate:
        gate.check(f"write into {model.name}")
        weights = own_weights(model)
        before = {name: weights[name].clone() for name in values if name in weights}
        gate.put(vars(model), "beneath", model.beneath or model.fingerprint)
        gate.afterwards(partial(write_weights, model, before))
        write_weights(model, values)
        yield


def _plain_name(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != WRAPPED)
