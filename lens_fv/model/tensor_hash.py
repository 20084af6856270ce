"""A hash of a tensor's bits that is equal on every device."""

from functools import lru_cache
from hashlib import sha256

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ROW = 1 << 15
"""Number of 64-bit words with distinct multipliers; longer tensors are hashed row by row."""
BLOCK = 1 << 5
"""Number of rows at a time, to keep intermediate results small."""


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
    n_words, rest = divmod(len(data), 8)
    words = data[: 8 * n_words].view(torch.int64)
    if rest:
        last = torch.nn.functional.pad(data[-rest:], (0, 8 - rest))
        words = torch.cat([words, last.view(torch.int64)])
    while len(words) > ROW:
        rows = len(words) // ROW * ROW
        words = torch.cat([_row_sums(words[:rows].view(-1, ROW)), _row_sums(words[None, rows:])])
    return int(_row_sums(words[None]))


def _row_sums(rows: Tensor) -> Tensor:
    return torch.from_numpy(_row_sums_on_cpu(rows.numpy())) if rows.device.type == "cpu" else _row_sums_on_device(rows)


def _row_sums_on_cpu(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Hash with numpy in one thread; synchronisation of PyTorch's threads would take seconds on a busy machine."""
    m, k = (numbers[: rows.shape[1]].numpy() for numbers in _multipliers())
    buffer = np.empty_like(rows[:BLOCK])
    sums: list[NDArray[np.int64]] = []
    for begin in range(0, len(rows), BLOCK):
        block = rows[begin : begin + BLOCK]
        sums.append(block @ m + np.right_shift(block, 32, out=buffer[: len(block)]) @ k)
    return np.concatenate(sums)


def _row_sums_on_device(rows: Tensor) -> Tensor:
    """Hash with PyTorch, without integer matrix products, which it supports only on the CPU."""
    m, k = (numbers[: rows.shape[1]].to(rows.device) for numbers in _multipliers())
    return torch.cat([(block * m).sum(1) + ((block >> 32) * k).sum(1) for block in rows.split(BLOCK)])


@lru_cache(maxsize=1)
def _multipliers() -> tuple[Tensor, Tensor]:
    """Fixed odd numbers, derived by sha256 to be independent of the PyTorch version."""
    digests = b"".join(sha256(f"lens_fv {i}".encode()).digest() for i in range(ROW // 2))
    m, k = torch.frombuffer(bytearray(digests), dtype=torch.int64).bitwise_or(1).view(2, ROW)
    return m, k
