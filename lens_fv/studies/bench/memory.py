"""Every head of prompts of growing length: memory and time of the engine, compared with one plain forward pass."""

from collections.abc import Sequence
from typing import Any

from lens_fv.core.choices import Count, Natural, Seed, checked
from lens_fv.core.progress import progress_bar
from lens_fv.patching import Branch, plan_branches
from lens_fv.studies.bench.clock import Clock
from lens_fv.studies.bench.engine import compare_engine, head_edits
from lens_fv.studies.bench.subject import BenchResult, Subject, few_shot_tokens


@checked
def bench_memory(
    subject: Subject,
    *,
    n_shots: Sequence[Natural] = (5, 10, 20, 40, 60),
    repeats: Count = 3,
    seed: Seed = 0,
    progress: bool = False,
) -> BenchResult:
    """Patch every head of prompts of growing length.

    The measure `growth` is a table with a line for each prompt, the shortest first. Times are medians in seconds, bytes are
    peaks that include the weights; `planned_bytes`, without the weights, is what the plan expected.

    Args:
        subject: Model to run, and task of the few-shot prompts; without a task, prompts of random tokens.
        n_shots: Number of demonstrations; one prompt each.
        repeats: Number of runs for the median.
        seed: Seed of the prompts and of the edits' random values.
        progress: Show a progress bar.
    """
    model, clock = subject.model, Clock(subject.model)
    branches = [Branch((edit,), tokens=(0,)) for edit in head_edits(subject, seed)]
    prompts = sorted((few_shot_tokens(model, subject.task, n, seed) for n in n_shots), key=len)
    growth: list[dict[str, Any]] = []
    with progress_bar("bench", len(prompts) * repeats, show=progress) as tick:
        for prompt in prompts:
            plain, engine = compare_engine(clock, model, prompt, branches, repeats, tick)
            growth.append(
                {
                    "prompt_tokens": len(prompt),
                    "plain_forward_s": plain.seconds,
                    "engine_s": engine.seconds,
                    "plain_forwards": engine.time_ratio,
                    "plain_bytes": plain.bytes,
                    "engine_bytes": engine.bytes,
                    "memory_ratio": engine.memory_ratio,
                    "planned_bytes": max(plan.peak_bytes for plan in plan_branches(model, [prompt], branches)),
                }
            )
    return subject.result(edits=len(branches), growth=growth, product_gflops=clock.rate / 1e9)
