"""Fingerprint of a model's weights: a hash of every bit, and a cheap test of whether it is still valid."""

import math
from collections.abc import Iterator
from functools import lru_cache
from hashlib import sha256

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lens_fv.model.exclusive import modules_of

WRAPPED = "_original_component"
"""TransformerLens' name for the transformers module that one of its own wraps."""
SPLITS = {"split_qkv_matrix": ("q", "k", "v"), "split_gate_up_matrix": ("gate", "in")}
"""Methods by which its modules split a joint map of transformers, and the names of the parts that they also keep."""
ROW = 1 << 15
"""Number of 64-bit words with distinct multipliers; longer tensors are hashed row by row."""
BLOCK = 1 << 5
"""Number of rows at a time, to keep intermediate results small."""
State = tuple[object, ...]


class Fingerprint:
    """Fingerprint of a module's weights, computed once and again when a change is detected.

    Each use detects another tensor, memory, shape or type; every change that PyTorch counts (optimisers, `copy_`, `add_` under
    `no_grad`, ...); and, for uncounted writes through `.data`, changes of sampled numbers. The sample has at least one number
    from every row and every column of each matrix, so overwriting a layer, head or neuron is detected. After a smaller change
    through `.data`, call `forget`.

    Args:
        root: module to fingerprint.
        known: fingerprint to report until a change, such as that of the weights before processing; default: computed.
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

    def forget(self) -> None:
        """Read every weight again at the next use."""
        self._known = None
        self._hashes.clear()

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
    named: set[int] = set()
    original: nn.Module = getattr(root, "original_model", root)
    for name, module in _modules(original, ""):
        for last, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None and last not in module._non_persistent_buffers_set:
                yield f"{name}{last}", tensor
                named.add(id(tensor))
    copies = {id(each) for joint in root.modules() for part in _faithful_parts(joint) for each in part.parameters()}
    for name, tensor in root.named_parameters():
        if id(tensor) not in named | copies:
            yield name, tensor


def _modules(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield the transformers modules, without TransformerLens' own names for parts of those it wraps."""
    while WRAPPED in module._modules:
        module = module.get_submodule(WRAPPED)
    yield name, module
    for last, child in module._modules.items():
        if child is not None:
            yield from _modules(child, f"{name}{last}.")


def _faithful_parts(joint: nn.Module) -> list[nn.Module]:
    """Modules that duplicate the parts of a joint map, if they match bit for bit."""
    found: list[nn.Module] = []
    for split, names in SPLITS.items():
        if hasattr(joint, split) and WRAPPED in joint._modules:
            kept = [joint.get_submodule(name) for name in names]
            now = getattr(joint, split)(joint.get_submodule(WRAPPED))
            pairs = [pair for a, b in zip(kept, now, strict=True) for pair in zip(a.parameters(), b.parameters(), strict=True)]
            if all(torch.equal(one, other) for one, other in pairs):
                found += kept
    return found


@torch.no_grad()
def tensor_hash(tensor: Tensor) -> int:
    """Compute a position-dependent 64-bit hash of a tensor's bits, equal on every device.

    Words x_i are summed as m_i x_i + k_i (x_i >> 32) modulo 2^64 with fixed odd m_i and k_i, row by row, and then the row sums
    in the same way. The second term covers the highest bits, which are signs: with m_i x_i alone, two flipped signs would
    cancel. All-zero tensors, and weights that are not in memory (on PyTorch's meta device), give 0.
    """
    if tensor.is_meta:
        return 0
    data = tensor.contiguous().reshape(-1)
    if data.storage_offset() * data.element_size() % 8:
        data = data.clone()
    data = data.view(torch.uint8)
    whole, rest = divmod(len(data), 8)
    words = data[: 8 * whole].view(torch.int64)
    if rest:
        last = data.new_zeros(8)
        last[:rest] = data[-rest:]
        words = torch.cat([words, last.view(torch.int64)])
    while len(words) > ROW:
        rows = len(words) // ROW * ROW
        words = torch.cat([_summed(words[:rows].view(-1, ROW)), _summed(words[None, rows:])])
    return int(_summed(words[None]))


def _summed(rows: Tensor) -> Tensor:
    return torch.from_numpy(_on_the_cpu(rows.numpy())) if rows.device.type == "cpu" else _elsewhere(rows)


def _on_the_cpu(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Hash with numpy in one thread; synchronisation of PyTorch's threads would take seconds on a busy machine."""
    m, k = (numbers[: rows.shape[1]].numpy() for numbers in _multipliers())
    room = np.empty_like(rows[:BLOCK])
    found: list[NDArray[np.int64]] = []
    for at in range(0, len(rows), BLOCK):
        block = rows[at : at + BLOCK]
        found.append(block @ m + np.right_shift(block, 32, out=room[: len(block)]) @ k)
    return np.concatenate(found)


def _elsewhere(rows: Tensor) -> Tensor:
    """Hash with PyTorch, without integer matrix products, which it supports only on the CPU."""
    m, k = (numbers[: rows.shape[1]].to(rows.device) for numbers in _multipliers())
    return torch.cat([(block * m).sum(1) + ((block >> 32) * k).sum(1) for block in rows.split(BLOCK)])


@lru_cache(maxsize=1)
def _multipliers() -> tuple[Tensor, Tensor]:
    """Fixed odd numbers, derived by sha256 to be independent of the PyTorch version."""
    drawn = b"".join(sha256(f"lens_fv {i}".encode()).digest() for i in range(ROW // 2))
    m, k = torch.frombuffer(bytearray(drawn), dtype=torch.int64).bitwise_or(1).view(2, ROW)
    return m, k


def _tensors(root: nn.Module) -> list[Tensor]:
    """List all tensors once each, including those of submodules that TransformerLens does not register."""
    found = {
        id(tensor): tensor
        for module in modules_of(root)
        for tensor in (*module._parameters.values(), *module._buffers.values())
        if tensor is not None
    }
    return list(found.values())


@torch.no_grad()
def _states(tensors: list[Tensor]) -> list[State]:
    """State of each tensor that can be checked without reading all of it."""
    samples = [_sample(tensor.detach()) for tensor in tensors]
    sums: dict[int, int] = {}
    for device in {sample.device for sample in samples if not sample.is_meta}:  # synchronise once per device
        at = [i for i, sample in enumerate(samples) if sample.device == device]
        sums.update(zip(at, torch.stack([samples[i] for i in at]).tolist(), strict=True))
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
    whole_numbers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    sample = tensor.view(-1).view(whole_numbers)[::step]
    if sample.device.type == "cpu":
        return torch.tensor(int(sample.numpy().sum(dtype=np.int64)))
    return sample.sum(dtype=torch.int64)
