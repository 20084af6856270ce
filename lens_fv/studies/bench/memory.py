"""Growth of memory and time with prompt length."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from lens_fv.core.choices import Count, Seed
from lens_fv.patching import Branch, answer_logprobs, plan_branches, run_branches
from lens_fv.studies.bench.clock import Clock, peak_memory, plain_forward
from lens_fv.studies.bench.engine import head_edits
from lens_fv.studies.bench.subject import BenchResult, Subject


@torch.no_grad()
def bench_memory(
    subject: Subject,
    prompts: Sequence[tuple[int, ...]],
    *,
    repeats: Count = 3,
    seed: Seed = 0,
    tick: Callable[[], None] = lambda: None,
) -> BenchResult:
    """Patch every head of prompts of growing length.

    The measure `growth` is a table with a line for each prompt, the shortest first. Times are medians in seconds, bytes are
    peaks that include the weights; `planned_bytes`, without the weights, is what the plan expected.

    Args:
        subject: Model to run.
        prompts: Token ids of the prompts.
        repeats: Number of runs for the median.
        seed: Seed of the edits' random values.
        tick: Called `repeats` times per prompt.
    """
    model, clock = subject.model, Clock(subject.model)
    branches = [Branch((edit,), tokens=(0,)) for edit in head_edits(subject, seed)]
    growth: list[dict[str, Any]] = []
    for prompt in sorted(prompts, key=len):

        def engine(prompt: tuple[int, ...] = prompt) -> torch.Tensor:
            return run_branches(model, [prompt], branches, readout=answer_logprobs)

        plain = plain_forward(model, prompt)
        seconds = clock.race({"plain": plain, "engine": engine}, repeats, tick)
        plain_peak, engine_peak = peak_memory(model, plain), peak_memory(model, engine)
        planned = max(plan.peak_bytes for plan in plan_branches(model, [prompt], branches))
        growth.append(
            {
                "prompt_tokens": len(prompt),
                "plain_forward_s": seconds["plain"],
                "engine_s": seconds["engine"],
                "plain_forwards": seconds["engine"] / seconds["plain"],
                "plain_bytes": plain_peak,
                "engine_bytes": engine_peak,
                "memory_ratio": engine_peak / plain_peak,
                "planned_bytes": planned,
            }
        )
    return subject.result(edits=len(branches), growth=growth, product_gflops=clock.rate / 1e9)
