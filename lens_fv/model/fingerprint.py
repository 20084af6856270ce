"""Which weights a model has: a hash of every bit of them, and what tells cheaply that it still holds."""

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
"""What TransformerLens calls the module of transformers that one of its own stands around."""
SPLITS = {"split_qkv_matrix": ("q", "k", "v"), "split_gate_up_matrix": ("gate", "in")}
"""How its modules cut up a map that transformers has as one, and the names of the parts that they keep as well."""
ROW = 1 << 15
"""64-bit words that are multiplied by different numbers; longer tensors are hashed row by row."""
BLOCK = 1 << 5
"""Rows at a time, so that what is computed on the way stays small."""
State = tuple[object, ...]


class Fingerprint:
    """The fingerprint of a module's weights: computed once, and again when a weight is seen to have changed.

    What is seen at each use: another tensor, memory, shape or type; every change that PyTorch counts (optimisers, `copy_`,
    `add_` under `no_grad`, ...); and, of what is written past that count through `.data`, whatever changes a number of the
    sample. The sample holds at least one number of every row and of every column of each matrix, so a layer, head or neuron
    that is overwritten shows. After a smaller change through `.data`, call `forget`.

    Args:
        root: the module.
        known: its fingerprint now, where the caller knows better: of the weights before they were processed.
    """

    def __init__(self, root: nn.Module, known: str | None = None) -> None:
        self._root, self._known = root, known
        self._states = _states(_tensors(root)) if known else []
        self._hashes: dict[State, int] = {}

    def value(self) -> str:
        """16 hexadecimal digits of the names, types, shapes and bits of all weights, on whichever device."""
        tensors = _tensors(self._root)
        states = _states(tensors)
        if self._known is None or states != self._states:
            self._known, self._states = self._computed(dict(zip(map(id, tensors), states, strict=True))), states
        return self._known

    def forget(self) -> None:
        """Have every weight read again at the next use."""
        self._known = None
        self._hashes.clear()

    def _computed(self, states: dict[int, State]) -> str:
        hashes: dict[State, int] = {}
        lines: list[str] = []
        for name, tensor in own_tensors(self._root):
            state = states[id(tensor)]
            if state not in hashes:  # tied weights are read once
                hashes[state] = self._hashes[state] if state in self._hashes else tensor_hash(tensor.detach())
            if hashes[state]:  # TransformerLens gives biases of zeros to what has none
                lines.append(f"{name} {tensor.dtype} {tuple(tensor.shape)} {hashes[state]}")
        self._hashes = hashes
        return sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


def own_tensors(root: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and every buffer that is saved with a model, by transformers' names.

    TransformerLens names most weights several times. The parts of a joint map that it keeps are left out as long as they are
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
    """The modules of transformers: of those that TransformerLens stands around, not its own names for their parts."""
    while WRAPPED in module._modules:
        module = module.get_submodule(WRAPPED)
    yield name, module
    for last, child in module._modules.items():
        if child is not None:
            yield from _modules(child, f"{name}{last}.")


def _faithful_parts(joint: nn.Module) -> list[nn.Module]:
    """The modules that repeat the parts of a joint map, if they do so to the bit."""
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
    """A 64-bit hash of a tensor's bits in which every position counts differently; the same on every device.

    Words x_i are summed as m_i x_i + k_i (x_i >> 32) modulo 2^64 with fixed odd m_i and k_i, row by row, then the rows' sums
    in the same way. The second term is for the highest bits, which are signs: of m_i x_i alone, two flips of them cancel.
    Zeros alone, and weights that are not in memory (on PyTorch's meta device), give 0.
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
    """By numpy, in one thread: PyTorch's threads wait for each other so often here that on a busy machine it takes seconds."""
    m, k = (numbers[: rows.shape[1]].numpy() for numbers in _multipliers())
    room = np.empty_like(rows[:BLOCK])
    found: list[NDArray[np.int64]] = []
    for at in range(0, len(rows), BLOCK):
        block = rows[at : at + BLOCK]
        found.append(block @ m + np.right_shift(block, 32, out=room[: len(block)]) @ k)
    return np.concatenate(found)


def _elsewhere(rows: Tensor) -> Tensor:
    """By PyTorch, which multiplies no matrices of whole numbers but on the CPU."""
    m, k = (numbers[: rows.shape[1]].to(rows.device) for numbers in _multipliers())
    return torch.cat([(block * m).sum(1) + ((block >> 32) * k).sum(1) for block in rows.split(BLOCK)])


@lru_cache(maxsize=1)
def _multipliers() -> tuple[Tensor, Tensor]:
    """Fixed odd numbers; from sha256, so that no version of PyTorch draws others."""
    drawn = b"".join(sha256(f"lens_fv {i}".encode()).digest() for i in range(ROW // 2))
    m, k = torch.frombuffer(bytearray(drawn), dtype=torch.int64).bitwise_or(1).view(2, ROW)
    return m, k


def _tensors(root: nn.Module) -> list[Tensor]:
    """All there are, each once, with those of parts of a model that TransformerLens does not register."""
    found = {
        id(tensor): tensor
        for module in modules_of(root)
        for tensor in (*module._parameters.values(), *module._buffers.values())
        if tensor is not None
    }
    return list(found.values())


@torch.no_grad()
def _states(tensors: list[Tensor]) -> list[State]:
    """What of each tensor is seen without all of it being read."""
    samples = [_sample(tensor.detach()) for tensor in tensors]
    sums: dict[int, int] = {}
    for device in {sample.device for sample in samples if not sample.is_meta}:  # a device is waited for once
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
    """The sum, as whole numbers, of evenly spaced elements: at least one of every row and of every column."""
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
