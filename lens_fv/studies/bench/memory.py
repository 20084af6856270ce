"""Growth of memory and time with prompt length."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch

from lens_fv.core.choices import Count, Seed
from lens_fv.patching import Branch, answer_logprobs, plan_branches, run_branches
from lens_fv.studies.bench.clock import Clock, peak_memory, plain_forward
from lens_fv.studies.bench.engine import head_edits
from lens_fv.studies.bench.subject import Subject


class Growth(NamedTuple):
    """Patching all heads of one prompt, compared with one plain forward pass.

    Attributes:
        prompt_tokens: Length of the prompt.
        plain_forward_s, engine_s, plain_forwards: Median times in seconds, and their ratio.
        plain_bytes, engine_bytes, memory_ratio: Peak memory, weights included, and its ratio.
        planned_bytes: Memory that the plan expected, without the weights.
    """

    prompt_tokens: int
    plain_forward_s: float
    engine_s: float
    plain_forwards: float
    plain_bytes: float
    engine_bytes: float
    memory_ratio: float
    planned_bytes: int


@dataclass(frozen=True)
class MemoryBench:
    """Results of `bench_memory`.

    Attributes:
        model, device, dtype, threads: Model and hardware of the benchmark.
        edits: Number of edits, one per head.
        growth: Results per prompt, shortest first.
        product_gflops: Rate of a matrix product, in 1e9 operations per second.
    """

    model: str
    device: str
    dtype: str
    threads: int
    edits: int
    growth: tuple[Growth, ...]
    product_gflops: float

    def to_json(self) -> dict[str, Any]:
        """All fields as plain values."""
        return asdict(self) | {"growth": [g._asdict() for g in self.growth]}


@torch.no_grad()
def bench_memory(
    subject: Subject,
    prompts: Sequence[tuple[int, ...]],
    *,
    repeats: Count = 3,
    seed: Seed = 0,
    tick: Callable[[], None] = lambda: None,
) -> MemoryBench:
    """Patch every head of prompts of growing length.

    Args:
        subject: Model to run.
        prompts: Token ids of the prompts.
        repeats: Number of runs for the median.
        seed: Seed of the edits' random values.
        tick: Called `repeats` times per prompt.
    """
    model, clock = subject.model, Clock(subject.model)
    branches = [Branch((edit,), tokens=(0,)) for edit in head_edits(subject, seed)]
    growth: list[Growth] = []
    for prompt in sorted(prompts, key=len):

        def engine(prompt: tuple[int, ...] = prompt) -> torch.Tensor:
            return run_branches(model, [prompt], branches, readout=answer_logprobs)

        plain = plain_forward(model, prompt)
        seconds = clock.race({"plain": plain, "engine": engine}, repeats, tick)
        plain_peak, engine_peak = peak_memory(model, plain), peak_memory(model, engine)
        planned = max(plan.peak_bytes for plan in plan_branches(model, [prompt], branches))
        ratio = seconds["engine"] / seconds["plain"]
        growth.append(
            Growth(
                len(prompt),
                seconds["plain"],
                seconds["engine"],
                ratio,
                plain_peak,
                engine_peak,
                engine_peak / plain_peak,
                planned,
            )
        )
    facts = {k: v for k, v in subject.summary().items() if k != "prompt_tokens"}
    return MemoryBench(**facts, edits=len(branches), growth=tuple(growth), product_gflops=clock.rate / 1e9)
