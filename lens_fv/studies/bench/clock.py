"""Time, memory, and the floor under them."""

import contextlib
import ctypes
import gc
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import psutil
import torch
from torch import Tensor

from lens_fv.model.lens_model import LensModel

MATRIX = 2048


class Clock:
    """Times runs in turn with one another and with a matrix product, so that all meet the same machine.

    Attributes:
        seconds: median time of each run.
        rate: floating-point operations a second in a product of two square matrices of `MATRIX` rows, of the model's type.
    """

    def __init__(self, model: LensModel) -> None:
        self._model = model
        self._factors = [torch.randn(MATRIX, MATRIX, device=model.device, dtype=model.dtype) for _ in range(2)]
        self.seconds: dict[str, float] = {}
        self.rate = 0.0

    def race(self, runs: Mapping[str, Callable[[], Any]], repeats: int, tick: Callable[[], None]) -> dict[str, float]:
        """Run each of them `repeats` times, in turn, and note the medians."""
        everyone = {**runs, "product": lambda: self._factors[0] @ self._factors[1]}
        for run in everyone.values():  # the first call pays for checks and allocations
            run()
        times: dict[str, list[float]] = {name: [] for name in everyone}
        for _ in range(repeats):
            for name, run in everyone.items():
                times[name].append(self.time(run))
            tick()
        self.seconds = {name: statistics.median(found) for name, found in times.items()}
        self.rate = 2 * MATRIX**3 / self.seconds["product"]
        return self.seconds

    def time(self, run: Callable[[], Any]) -> float:
        """Seconds that one run takes."""
        self._wait()
        begin = time.perf_counter()
        run()
        self._wait()
        return time.perf_counter() - begin

    def _wait(self) -> None:
        if self._model.device.type == "cuda":
            torch.cuda.synchronize(self._model.device)


def body_weights(model: LensModel) -> int:
    """Weights of all layers that take part in matrix products."""
    return sum(p.numel() for block in model.tl.blocks for p in block.parameters() if p.ndim >= 2)


def floor_operations(model: LensModel, *, tokens: int, rows: int, unembedded: int) -> float:
    """Operations of tokens through the whole body, rows through half of it (their average), and some unembedded."""
    body = body_weights(model)
    return 2 * (tokens * body + rows * body / 2 + unembedded * model.d_model * model.d_vocab)


def plain_forward(model: LensModel, prompt: tuple[int, ...]) -> Callable[[], Tensor]:
    """One forward of a prompt that unembeds its last token alone."""
    tokens = torch.tensor([prompt], device=model.device)
    last: list[Tensor] = []

    def keep(x: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        last[:] = [x[0, -1]]
        return x

    def run() -> Tensor:
        model.run_body(tokens, [(f"blocks.{model.n_layers - 1}.hook_resid_post", keep)])
        return model.unembed(last[0])

    return run


def _give_back() -> None:
    """Return what earlier runs have freed to the system, where the C library can: else it would count as this run's."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def peak_memory(model: LensModel, run: Callable[[], Any]) -> float:
    """Bytes at the highest point of a run: what the accelerator's allocator says, or the process' resident size."""
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(model.device)
        run()
        return float(torch.cuda.max_memory_allocated(model.device))
    _give_back()
    process, done, peak = psutil.Process(), threading.Event(), [0]

    def watch() -> None:
        while not done.wait(0.001):
            peak[0] = max(peak[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run()
    finally:
        done.set()
        watcher.join()
    return float(max(peak[0], process.memory_info().rss))
