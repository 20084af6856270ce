"""How fast and how exact is the engine, against the plain TransformerLens loop, in the same run?"""

import random
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch

from lens_fv.model.lens_model import LensModel
from lens_fv.patching import Branch, Edit, answer_logprobs, run_branches
from lens_fv.tasks import Task, build_prompts, encode_prompt, split_pairs

MATRIX = 2048


@dataclass(frozen=True)
class EngineBench:
    """What `bench_engine` measured. Times are medians, in seconds.

    Attributes:
        model, device, dtype, threads: what it ran on.
        prompt_tokens, edits: one prompt of so many tokens, one edit for every head of the model.
        plain_forward_s: one forward of the prompt, unembedding its last token.
        engine_s: all edits by the one-pass engine, from the token ids to the answer's probability.
        loop_s: the same by one full forward an edit, `loop_sample` of which were timed and scaled up.
        speedup_vs_loop: loop_s / engine_s.
        plain_forwards: engine_s / plain_forward_s.
        max_abs_error: largest difference in probability (over the whole vocabulary) on the sampled edits.
        floor_fraction: time that the engine's arithmetic takes at the machine's own matrix-product rate / engine_s.
        peak_memory_ratio: peak memory of the engine / that of the plain forward, weights included in both.
    """

    model: str
    device: str
    dtype: str
    threads: int
    prompt_tokens: int
    edits: int
    loop_sample: int
    plain_forward_s: float
    engine_s: float
    loop_s: float
    speedup_vs_loop: float
    plain_forwards: float
    max_abs_error: float
    floor_fraction: float
    peak_memory_ratio: float

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self)


@torch.no_grad()
def bench_engine(
    model: LensModel,
    task: Task,
    *,
    n_shots: int = 10,
    sample: int = 12,
    repeats: int = 5,
    seed: int = 0,
    tick: Callable[[], None] = lambda: None,
) -> EngineBench:
    """Patch every head at the last token of one few-shot prompt, by the engine and by the plain loop.

    Args:
        model: the model.
        task: its pairs make the prompt.
        n_shots: demonstrations.
        sample: edits that the loop is timed on.
        repeats: runs of the engine and of the plain forward, in turn; the median counts.
        seed: of the prompt, of the edits' random values and of the sample.
        tick: called `repeats` + `sample` times.
    """
    split = split_pairs(task, seed=seed)
    prompt = encode_prompt(model, build_prompts(split.validation[:1], split.train, n_shots=n_shots, seed=seed)[0]).tokens
    rng = torch.Generator().manual_seed(seed)
    branches = [
        Branch((Edit(layer, torch.randn(model.d_head, generator=rng), head=head),), tokens=(0,))
        for layer in range(model.n_layers)
        for head in range(model.n_heads)
    ]
    tokens = torch.tensor([prompt], device=model.device)
    last: list[torch.Tensor] = []

    def keep(x: torch.Tensor, hook: Any) -> torch.Tensor:  # noqa: ARG001
        last[:] = [x[0, -1]]
        return x

    def plain() -> torch.Tensor:
        model.run_body(tokens, [(f"blocks.{model.n_layers - 1}.hook_resid_post", keep)])
        return model.unembed(last[0])

    def engine() -> torch.Tensor:
        return run_branches(model, [prompt], branches, readout=answer_logprobs).exp()

    for first in (plain, engine):  # the first call pays for checks and allocations
        first()
    plain_peak, engine_peak = _peak_memory(model, plain), _peak_memory(model, engine)
    plain_times, engine_times, product_times = [], [], []
    for _ in range(repeats):
        plain_times.append(_seconds(model, plain))
        engine_times.append(_seconds(model, engine))
        product_times.append(_seconds(model, _matrix_product(model)))
        tick()
    probabilities = model.unembed(run_branches(model, [prompt], branches)[0, :, 0]).softmax(-1)
    loop_times, errors = [], []
    for i in random.Random(seed).sample(range(len(branches)), min(sample, len(branches))):
        begin = time.perf_counter()
        resid = run_branches(model, [prompt], [branches[i]], method="loop")
        found = model.unembed(resid[0, 0, 0]).softmax(-1)
        _wait(model)
        loop_times.append(time.perf_counter() - begin)
        errors.append(float((found - probabilities[i]).abs().max()))
        tick()
    plain_s, engine_s = statistics.median(plain_times), statistics.median(engine_times)
    loop_s = statistics.mean(loop_times) * len(branches)
    floor_s = _floor_flops(model, len(prompt), len(branches)) * statistics.median(product_times) / (2 * MATRIX**3)
    return EngineBench(
        model=model.name,
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        prompt_tokens=len(prompt),
        edits=len(branches),
        loop_sample=len(loop_times),
        plain_forward_s=plain_s,
        engine_s=engine_s,
        loop_s=loop_s,
        speedup_vs_loop=loop_s / engine_s,
        plain_forwards=engine_s / plain_s,
        max_abs_error=max(errors),
        floor_fraction=floor_s / engine_s,
        peak_memory_ratio=engine_peak / plain_peak,
    )


def _floor_flops(model: LensModel, n_tokens: int, n_rows: int) -> float:
    """The prompt through the body, the rows through half of it on average, and the rows' unembedding."""
    unembedding = model.d_model * model.d_vocab
    body = sum(p.numel() for block in model.tl.blocks for p in block.parameters() if p.ndim >= 2)
    return 2 * (n_tokens * body + n_rows * (body / 2 + unembedding))


def _matrix_product(model: LensModel) -> Callable[[], torch.Tensor]:
    a, b = (torch.randn(MATRIX, MATRIX, device=model.device, dtype=model.dtype) for _ in range(2))
    return lambda: a @ b


def _seconds(model: LensModel, run: Callable[[], Any]) -> float:
    _wait(model)
    begin = time.perf_counter()
    run()
    _wait(model)
    return time.perf_counter() - begin


def _wait(model: LensModel) -> None:
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)


def _peak_memory(model: LensModel, run: Callable[[], Any]) -> float:
    """Bytes at the highest point of a run: what the accelerator's allocator says, or the process' resident size."""
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(model.device)
        run()
        return float(torch.cuda.max_memory_allocated(model.device))
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
