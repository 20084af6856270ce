"""How memory and time grow with the prompt."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch

from lens_fv.patching import Branch, answer_logprobs, plan_branches, run_branches
from lens_fv.studies.bench.clock import Clock, peak_memory, plain_forward
from lens_fv.studies.bench.engine import head_edits
from lens_fv.studies.bench.subject import Subject


class Growth(NamedTuple):
    """All heads of one prompt beside one plain forward of it.

    Attributes:
        prompt_tokens: its length.
        plain_forward_s, engine_s, plain_forwards: medians in seconds, and their ratio.
        plain_bytes, engine_bytes, memory_ratio: peaks, weights included, and their ratio.
        planned_bytes: what the plan expected beyond the weights.
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
    """What `bench_memory` measured.

    Attributes:
        model, device, dtype, threads: what it ran on.
        edits: one for every head.
        growth: prompt by prompt, from the shortest.
        product_gflops: the rate of a matrix product, in 1e9 operations a second.
    """

    model: str
    device: str
    dtype: str
    threads: int
    edits: int
    growth: tuple[Growth, ...]
    product_gflops: float

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self) | {"growth": [g._asdict() for g in self.growth]}


@torch.no_grad()
def bench_memory(
    subject: Subject,
    prompts: Sequence[tuple[int, ...]],
    *,
    repeats: int = 3,
    seed: int = 0,
    tick: Callable[[], None] = lambda: None,
) -> MemoryBench:
    """Patch every head of prompts of growing length.

    Args:
        subject: the model.
        prompts: token ids.
        repeats: runs that the median is taken of.
        seed: of the edits' random values.
        tick: called `repeats` times a prompt.
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
