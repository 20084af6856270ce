"""Fingerprint of a model's weights: a hash of every bit, and a cheap test of whether it is still valid."""

import math
from collections.abc import Iterator
from hashlib import sha256

import numpy as np
import torch
from torch import Tensor, nn

from lens_fv.model.exclusive import modules_of
from lens_fv.model.tensor_hash import tensor_hash

WRAPPED = "_original_component"
"""TransformerLens' name for the transformers module that one of its own wraps."""
SPLITS = {"split_qkv_matrix": ("q", "k", "v"), "split_gate_up_matrix": ("gate", "in")}
"""Methods by which its modules split a joint map of transformers, and the names of the parts that they also keep."""
State = tuple[object, ...]


class Fingerprint:
    """Fingerprint of a module's weights, computed once and again when a change is detected.

    Each use detects another tensor, memory, shape or type; every change that PyTorch counts (optimisers, `copy_`, `add_` under
    `no_grad`, ...); and, for uncounted writes through `.data`, changes of sampled numbers. The sample has at least one number
    from every row and every column of each matrix, so overwriting a layer, head or neuron is detected. After a smaller change
    through `.data`, call `LensModel.weights_changed`.

    Args:
        root: Module to fingerprint.
        known: Fingerprint to report until a change, such as that of the weights before processing; default: computed.
    """

    def __init__(self, root: nn.Module, known: str | None = None) -> None:
        self._root, self._known = root, known
        self._states = _states(_tensors(root)) if known else []
        self._hashes: dict[State, int] = {}

    def value(self) -> str:
        """Hash the names, types, shapes and bits of all weights into 16 hexadecimal digits, independent of the device."""
        tensors = _tensors(self._root)
        states = _states(tensors)
        if self._known is None or states != self._states:
            self._known, self._states = self._computed(dict(zip(map(id, tensors), states, strict=True))), states
        return self._known

    def _computed(self, states: dict[int, State]) -> str:
        hashes: dict[State, int] = {}
        lines: list[str] = []
        for name, tensor in own_tensors(self._root):
            state = states[id(tensor)]
            if state not in hashes:  # tied weights are read once
                hashes[state] = self._hashes[state] if state in self._hashes else tensor_hash(tensor.detach())
            if hashes[state]:  # TransformerLens adds zero biases where a map has none
                lines.append(f"{name} {tensor.dtype} {tuple(tensor.shape)} {hashes[state]}")
        self._hashes = hashes
        return sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


def own_tensors(root: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield every parameter and saved buffer of a model, by transformers' names.

    TransformerLens lists most weights under several names. Its separate parts of a joint map are left out as long as they are
    copies.
    """
    listed: set[int] = set()
    original: nn.Module = getattr(root, "original_model", root)
    for name, module in _modules(original, ""):
        for last, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None and last not in module._non_persistent_buffers_set:
                yield f"{name}{last}", tensor
                listed.add(id(tensor))
    copies: set[int] = set()
    for joint in root.modules():
        for weights in joint_parts(joint):
            if all(torch.equal(part, value) for part, value in weights):
                copies |= {id(part) for part, _ in weights}
    for name, tensor in root.named_parameters():
        if id(tensor) not in listed | copies:
            yield name, tensor


def joint_parts(joint: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Yield the weights of the parts of a joint map that TransformerLens keeps, each with its value in the joint map."""
    for split, names in SPLITS.items():
        if hasattr(joint, split) and WRAPPED in joint._modules:
            parts = [joint.get_submodule(name).parameters() for name in names]
            values = [part.parameters() for part in getattr(joint, split)(joint.get_submodule(WRAPPED))]
            yield [pair for own, new in zip(parts, values, strict=True) for pair in zip(own, new, strict=True)]


def _modules(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield the transformers modules, without TransformerLens' own names for parts of those it wraps."""
    while WRAPPED in module._modules:
        module = module.get_submodule(WRAPPED)
    yield name, module
    for last, child in module._modules.items():
        if child is not None:
            yield from _modules(child, f"{name}{last}.")


def _tensors(root: nn.Module) -> list[Tensor]:
    """List all tensors once each, including those of submodules that TransformerLens does not register."""
    tensors: dict[int, Tensor] = {}
    for module in modules_of(root):
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None:
                tensors[id(tensor)] = tensor
    return list(tensors.values())


@torch.no_grad()
def _states(tensors: list[Tensor]) -> list[State]:
    """State of each tensor that can be checked without reading all of it."""
    samples = [_sample(tensor.detach()) for tensor in tensors]
    sums: dict[int, int] = {}
    for device in {sample.device for sample in samples if not sample.is_meta}:  # synchronise once per device
        indices = [i for i, sample in enumerate(samples) if sample.device == device]
        sums.update(zip(indices, torch.stack([samples[i] for i in indices]).tolist(), strict=True))
    return [
        (
            id(t),
            None if t.is_meta else t.data_ptr(),
            t.device,
            t.dtype,
            t.shape,
            t.stride(),
            None if t.is_inference() else t._version,
            sums.get(i),
        )
        for i, t in enumerate(tensors)
    ]


def _sample(tensor: Tensor) -> Tensor:
    """Sum evenly spaced elements as integers, at least one from every row and every column."""
    if not tensor.is_contiguous() or tensor.element_size() > 8:
        return torch.zeros((), dtype=torch.int64, device=tensor.device)
    step = 1
    if tensor.ndim > 1 and tensor.numel():
        columns = tensor.shape[-1]
        step = min(tensor.numel() // columns, columns)
        while math.gcd(step, columns) > 1:
            step -= 1
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    sample = tensor.view(-1).view(integers)[::step]
    if sample.device.type == "cpu":
        return torch.tensor(int(sample.numpy().sum(dtype=np.int64)))
    return sample.sum(dtype=torch.int64)
