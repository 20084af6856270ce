"""Measurement of time and memory, and the arithmetic floor."""

import contextlib
import ctypes
import gc
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import psutil
import torch

from lens_fv.model.lens_model import LensModel

MATRIX = 2048
T = TypeVar("T")


class Cost(NamedTuple):
    """What a run costs, absolutely and relative to the plain run that it is compared with.

    Attributes:
        seconds: Median time.
        time_ratio: Time relative to that of the plain run.
        bytes: Peak memory, weights included.
        memory_ratio: Peak memory relative to that of the plain run.
    """

    seconds: float
    time_ratio: float
    bytes: float
    memory_ratio: float


class Clock:
    """Times runs in alternation with each other and with a matrix product, so that all see the same machine load."""

    def __init__(self, model: LensModel) -> None:
        self._model = model
        factors = [torch.randn(MATRIX, MATRIX, device=model.device, dtype=model.dtype) for _ in range(2)]
        self._multiply = partial(torch.matmul, *factors)
        self._products = [self._timed(self._multiply)[0] for _ in range(5)]

    @property
    def rate(self) -> float:
        """Floating-point operations per second in a product of two square matrices with `MATRIX` rows, in the model's type."""
        return 2 * MATRIX**3 / statistics.median(self._products)

    def compare(self, runs: Mapping[str, Sequence[Callable[[], Any]]], plain: str, tick: Callable[[], None]) -> dict[str, Cost]:
        """Compare the method `plain` with other methods of computing the same, each given by the runs to time.

        Runs of all methods alternate. Memory is that of a method's first run, which is repeated for it, because tracking memory
        would disturb the timed runs. `tick` is called after each round.
        """
        peaks: dict[str, float] = {}
        for name, (first, *_) in runs.items():
            first()  # includes checks and one-time allocations
            peaks[name] = peak_memory(self._model, first)
        times: dict[str, list[float]] = {name: [] for name in runs}
        for round_of_runs in zip(*runs.values(), strict=True):
            for name, run in zip(runs, round_of_runs):
                times[name].append(self.time(run)[0])
            tick()
        seconds = {name: statistics.median(values) for name, values in times.items()}
        return {
            name: Cost(seconds[name], seconds[name] / seconds[plain], peaks[name], peaks[name] / peaks[plain]) for name in runs
        }

    def time(self, run: Callable[[], T]) -> tuple[float, T]:
        """Time of one run, in seconds, and what it returned."""
        timed = self._timed(run)
        self._products.append(self._timed(self._multiply)[0])
        return timed

    def floor(self, operations: float, seconds: float) -> dict[str, float]:
        """Time of the arithmetic alone, at the matrix product's rate; its share of these seconds; and the rate."""
        floor_s = operations / self.rate
        return {"floor_s": floor_s, "floor_fraction": floor_s / seconds, "product_gflops": self.rate / 1e9}

    def _timed(self, run: Callable[[], T]) -> tuple[float, T]:
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
