"""Many edits of one prompt: the engine compared with a plain TransformerLens loop, and with one plain forward pass."""

import random
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from lens_fv.core.choices import Count, Seed, Whole
from lens_fv.patching import Branch, Edit, answer_logprobs, choose_backend, plan_branches, run_branches
from lens_fv.studies.bench.clock import Clock, floor_operations, peak_memory, plain_forward
from lens_fv.studies.bench.subject import BenchResult, Subject

SCALES = (0.5, 1.0, 2.0, 4.0, 8.0)


def bench_engine(
    subject: Subject,
    *,
    sample: Count = 12,
    repeats: Count = 5,
    seed: Seed = 0,
    tick: Callable[[], None] = lambda: None,
) -> BenchResult:
    """Patch every head at the last token of a prompt.

    Measures:
        backend: Backend of the engine; see `run_branches`.
        plain_forward_s: Median time of one forward pass of the prompt that unembeds its last token, in seconds.
        engine_s: Median time of all edits in the engine, from token ids to the answer's log-probability.
        loop_s: Time of all edits with one TransformerLens forward pass per edit, extrapolated from `loop_sample` edits.
        speedup_vs_loop, plain_forwards: loop_s / engine_s, and engine_s / plain_forward_s.
        max_abs_error: Largest difference in probability (over the whole vocabulary) on the sampled edits.
        floor_s, floor_fraction: Time of the arithmetic alone, at the matrix product's rate; its share of engine_s.
        product_gflops: Rate of the matrix product, in 1e9 operations per second.
        peak_memory_ratio: Peak memory of the engine / that of the plain forward pass, both including weights.

    Args:
        subject: Model and prompt.
        sample: Number of edits on which the plain loop is timed, extrapolated to all.
        repeats: Number of alternating runs of the engine and of the plain forward pass; the median counts.
        seed: Seed of the edits' random values and of the sample.
        tick: Called `repeats` + `sample` times.
    """
    return _bench(subject, head_edits(subject, seed), sample, repeats, seed, tick)


def bench_sweep(
    subject: Subject,
    *,
    scales: Sequence[float] = SCALES,
    sample: Count = 6,
    repeats: Count = 5,
    seed: Seed = 0,
    tick: Callable[[], None] = lambda: None,
) -> BenchResult:
    """Add one random vector after every layer at every scale; see `bench_engine`.

    Args:
        subject: Model and prompt.
        scales: Factors of the vector.
        sample: See `bench_engine`.
        repeats: See `bench_engine`.
        seed: Seed of the vector and of the sample.
        tick: Called `repeats` + `sample` times.
    """
    model = subject.model
    vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(seed)).to(model.device)
    edits = [Edit(layer, scale * vector, mode="add") for layer in range(model.n_layers) for scale in scales]
    return _bench(subject, edits, sample, repeats, seed, tick)


def bench_compose(
    subject: Subject,
    *,
    vectors: Count = 100,
    layer: Whole | None = None,
    sample: Count = 12,
    repeats: Count = 5,
    seed: Seed = 0,
    tick: Callable[[], None] = lambda: None,
) -> BenchResult:
    """Score a basis of random vectors on one prompt, all at one layer; see `bench_engine`.

    Args:
        subject: Model and prompt.
        vectors: Number of vectors in the basis, with random directions.
        layer: Layer after which vectors are added; default: the middle.
        sample: See `bench_engine`.
        repeats: See `bench_engine`.
        seed: Seed of the vectors and of the sample.
        tick: Called `repeats` + `sample` times.

    Raises:
        LensFVError: the layer does not exist.
    """
    model, rng = subject.model, torch.Generator().manual_seed(seed)
    layer = model.layer_at(0.5) if layer is None else model.check_layer(layer)
    rows = torch.randn(vectors, model.d_model, generator=rng).to(model.device)
    return _bench(subject, [Edit(layer, row, mode="add") for row in rows], sample, repeats, seed, tick)


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
        growth.append(
            {
                "prompt_tokens": len(prompt),
                "plain_forward_s": seconds["plain"],
                "engine_s": seconds["engine"],
                "plain_forwards": seconds["engine"] / seconds["plain"],
                "plain_bytes": plain_peak,
                "engine_bytes": engine_peak,
                "memory_ratio": engine_peak / plain_peak,
                "planned_bytes": max(plan.peak_bytes for plan in plan_branches(model, [prompt], branches)),
            }
        )
    return subject.result(edits=len(branches), growth=growth, product_gflops=clock.rate / 1e9)


def head_edits(subject: Subject, seed: int) -> list[Edit]:
    """One edit per head that replaces its output by a random one."""
    model, rng = subject.model, torch.Generator().manual_seed(seed)
    heads = [(layer, head) for layer in model.attention_layers for head in range(model.n_heads)]
    values = torch.randn(len(heads), model.d_head, generator=rng).to(model.device)
    return [Edit(layer, value, head=head) for (layer, head), value in zip(heads, values, strict=True)]


@torch.no_grad()
def _bench(
    subject: Subject, edits: Sequence[Edit], sample: int, repeats: int, seed: int, tick: Callable[[], None]
) -> BenchResult:
    model, prompt, clock, rows = subject.model, subject.prompt, Clock(subject.model), len(edits)
    branches = [Branch((edit,), tokens=(0,)) for edit in edits]

    def engine() -> torch.Tensor:
        return run_branches(model, [prompt], branches, readout=answer_logprobs)

    plain = plain_forward(model, prompt)
    for run in (plain, engine):  # one-time allocations must not count as a peak
        run()
    peaks = peak_memory(model, plain), peak_memory(model, engine)
    seconds = clock.race({"plain": plain, "engine": engine}, repeats, tick)
    chosen = random.Random(seed).sample(range(rows), min(sample, rows))
    states = run_branches(model, [prompt], [branches[i] for i in chosen])[0, :, 0]
    times, errors = [], []
    for i, state in zip(chosen, states, strict=True):
        duration, logits = clock.time(partial(_plain_patch, subject, edits[i]))
        times.append(duration)
        errors.append(float((model.unembed(state).float().softmax(-1) - logits.float().softmax(-1)).abs().max()))
        tick()
    loop_s = statistics.mean(times) * rows
    floor_s = floor_operations(model, tokens=len(prompt), rows=rows, unembedded=rows) / clock.rate
    return subject.result(
        prompt_tokens=len(prompt),
        backend=choose_backend(model),
        edits=rows,
        loop_sample=len(times),
        plain_forward_s=seconds["plain"],
        engine_s=seconds["engine"],
        loop_s=loop_s,
        speedup_vs_loop=loop_s / seconds["engine"],
        plain_forwards=seconds["engine"] / seconds["plain"],
        max_abs_error=max(errors),
        floor_s=floor_s,
        floor_fraction=floor_s / seconds["engine"],
        peak_memory_ratio=peaks[1] / peaks[0],
        product_gflops=clock.rate / 1e9,
    )


def _plain_patch(subject: Subject, edit: Edit) -> torch.Tensor:
    """The last token's logits under one edit, computed as a TransformerLens user would."""

    def change(x: torch.Tensor, hook: Any) -> torch.Tensor:  # noqa: ARG001
        if edit.head is not None:
            x[:, -1, edit.head] = edit.value.to(x)
        else:
            x[:, -1] += edit.value.to(x)
        return x

    return subject.model.forward(torch.tensor([subject.prompt]), [(edit.place, change)])[0, -1]
