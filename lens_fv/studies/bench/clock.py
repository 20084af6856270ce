"""Measurement of time and memory, and the arithmetic floor."""

import contextlib
import ctypes
import gc
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import psutil
import torch
from torch import Tensor

from lens_fv.model.lens_model import LensModel

MATRIX = 2048
T = TypeVar("T")


class Clock:
    """Times runs in alternation with each other and with a matrix product, so that all see the same machine load.

    Attributes:
        seconds: Median time of each run, in seconds.
        rate: Floating-point operations per second in a product of two square matrices with `MATRIX` rows, in the model's data
            type.
    """

    def __init__(self, model: LensModel) -> None:
        self._model = model
        self._factors = [torch.randn(MATRIX, MATRIX, device=model.device, dtype=model.dtype) for _ in range(2)]
        self.seconds: dict[str, float] = {}
        self.rate = 0.0

    def race(self, runs: Mapping[str, Callable[[], Any]], repeats: int, tick: Callable[[], None]) -> dict[str, float]:
        """Run each function `repeats` times, in alternation, and record the median times."""
        runs = {**runs, "product": lambda: self._factors[0] @ self._factors[1]}
        for run in runs.values():  # the first call pays for checks and allocations
            run()
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(repeats):
            for name, run in runs.items():
                times[name].append(self.time(run)[0])
            tick()
        self.seconds = {name: statistics.median(values) for name, values in times.items()}
        self.rate = 2 * MATRIX**3 / self.seconds["product"]
        return self.seconds

    def time(self, run: Callable[[], T]) -> tuple[float, T]:
        """Time of one run, in seconds, and what it returned."""
        self._wait()
        begin = time.perf_counter()
        result = run()
        self._wait()
        return time.perf_counter() - begin, result

    def _wait(self) -> None:
        if self._model.device.type == "cuda":
            torch.cuda.synchronize(self._model.device)


def body_weights(model: LensModel) -> int:
    """Number of weights in all layers that take part in matrix products."""
    return sum(p.numel() for block in model.tl.blocks for p in block.parameters() if p.ndim >= 2)


def floor_operations(model: LensModel, *, tokens: int, rows: int, unembedded: int) -> float:
    """Operations for tokens through all layers, rows through half of them (the average), and some unembeddings."""
    body = body_weights(model)
    return 2 * (tokens * body + rows * body / 2 + unembedded * model.d_model * model.d_vocab)


def plain_forward(model: LensModel, prompt: tuple[int, ...]) -> Callable[[], Tensor]:
    """A forward pass of a prompt that unembeds only its last token."""
    tokens = torch.tensor([prompt], device=model.device)

    def run() -> Tensor:
        states: list[Tensor] = []
        model.run_body(tokens, [model.last_state_hook(states)])
        return model.unembed(states[0][0, -1])

    return run


def peak_memory(model: LensModel, run: Callable[[], Any]) -> float:
    """Peak memory of a run in bytes, by the accelerator's allocator or the process's resident size."""
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(model.device)
        run()
        return float(torch.cuda.max_memory_allocated(model.device))
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # memory freed earlier goes back to the system, if the C library can
        ctypes.CDLL(None).malloc_trim(0)
    process, finished, sizes = psutil.Process(), threading.Event(), [0]

    def watch() -> None:
        while not finished.wait(0.001):
            sizes[0] = max(sizes[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run()
    finally:
        finished.set()
        watcher.join()
    return float(max(sizes[0], process.memory_info().rss))


def compared(seconds: Mapping[str, float], peaks: Mapping[str, float], plain: str, column: str) -> list[dict[str, Any]]:
    """A table of times and memory with a line for each method, and their ratios to those of the plain method.

    Args:
        seconds: Time of each method.
        peaks: Peak memory of each method in bytes, weights included.
        plain: Name of the plain method.
        column: Column of the methods' names.
    """
    return [
        {
            column: name,
            "seconds": seconds[name],
            "time_ratio": seconds[name] / seconds[plain],
            "bytes": peaks[name],
            "memory_ratio": peaks[name] / peaks[plain],
        }
        for name in seconds
        if name in peaks
    ]
