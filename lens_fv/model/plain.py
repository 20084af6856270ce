"""The transformers model behind one seen through TransformerLens: to train it, and to write into its weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lens_fv.errors import LensFVError
from lens_fv.model.exclusive import exclusive, gate_of, share_gate
from lens_fv.model.fingerprint import WRAPPED
from lens_fv.model.lens_model import LensModel
from lens_fv.model.measuring import check_weights
from lens_fv.model.quiet import quiet_transformers
from lens_fv.model.weights import writes_bos


def own_weights(model: LensModel) -> dict[str, Tensor]:
    """The model's weights by transformers' names: the tensors themselves, not copies; what is written into them is noticed.

    Raises:
        LensFVError: a model whose weights TransformerLens has processed, or one with an adapter in it.
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
    named = model.tl.original_model.named_parameters(remove_duplicate=False)
    return {_plain_name(name): parameter.detach() for name, parameter in named}


def plain_tokenizer(model: LensModel) -> Any:
    """The model's tokenizer as it came: TransformerLens makes every one put a beginning-of-sequence token in front."""
    tokenizer = deepcopy(model.tokenizer)
    if not model.prepend_bos and writes_bos(tokenizer):
        tokenizer.add_bos_token = False
    return tokenizer


def plain_model(model: LensModel, *, dropout: bool = True) -> Any:
    """A transformers model without TransformerLens around its parts, whose weights are those of `model`: they share memory.

    It runs and trains as fast as any transformers model. What training writes into its weights, `model` sees once
    `write_weights` was called, at the latest.

    Args:
        model: the model.
        dropout: as its configuration says, when it is trained; False: none.

    Raises:
        LensFVError: what `own_weights` raises.
    """
    from accelerate import init_empty_weights
    from transformers.initialization import no_init_weights

    found = own_weights(model)
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
        at, _, last = name.rpartition(".")
        setattr(plain.get_submodule(at), last, nn.Parameter(found[name], requires_grad=False))
    plain.tie_weights()
    share_gate(plain, model)
    return plain.eval()


@torch.no_grad()
def write_weights(model: LensModel, values: Mapping[str, Tensor]) -> None:
    """Write values into some of the model's weights, in place.

    Args:
        model: the model.
        values: by transformers' names.

    Raises:
        LensFVError: a name or a shape that the model does not have, or what `own_weights` raises.
    """
    found = own_weights(model)
    for name, value in values.items():
        if name not in found or found[name].shape != value.shape:
            has = f"has {tuple(found[name].shape)} there" if name in found else "has no such weight"
            raise LensFVError(f"write {name} {tuple(value.shape)} into {model.name}: it {has}")
    with exclusive(model, "is being written to") as gate, gate.writing(set(values)):
        for name, value in values.items():
            found[name].copy_(value)
        # Of maps to queries, keys and values that transformers keeps as one, TransformerLens keeps the parts too, as copies.
        for joint in model.tl.original_model.modules():
            if hasattr(joint, "split_qkv_matrix"):
                parts = joint.split_qkv_matrix(getattr(joint, WRAPPED))
                for own, new in zip((joint.q, joint.k, joint.v), parts, strict=True):
                    for kept, now in zip(getattr(own, WRAPPED).parameters(), new.parameters(), strict=True):
                        kept.copy_(now)
        model.__dict__.pop("_has_unembed_bias", None)


@contextmanager
def weights_written(model: LensModel, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside the block some weights have other values; behind it they are again, to the bit, what they were."""
    with exclusive(model, "has other weights for a while") as gate:
        gate.check(f"write into {model.name}")
        found = own_weights(model)
        before = {name: found[name].clone() for name in values if name in found}
        gate.put(vars(model), "beneath", model.beneath or model.fingerprint)
        gate.afterwards(partial(write_weights, model, before))
        write_weights(model, values)
        yield


def _plain_name(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != WRAPPED)
