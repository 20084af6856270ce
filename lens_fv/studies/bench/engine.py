"""Many edits of one prompt: the engine compared with a plain TransformerLens loop, and with one plain forward pass."""

import random
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lens_fv.core.choices import Count, Finite, Seed, Whole, checked
from lens_fv.core.progress import progress_bar
from lens_fv.model.lens_model import LensModel
from lens_fv.patching import Branch, Edit, answer_logprobs, choose_backend, run_branches
from lens_fv.studies.bench.clock import Clock, Cost, body_weights
from lens_fv.studies.bench.subject import BenchResult, Subject

SCALES = (0.5, 1.0, 2.0, 4.0, 8.0)


@checked
def bench_engine(
    subject: Subject,
    *,
    sample: Count = 12,
    repeats: Count = 5,
    seed: Seed = 0,
    progress: bool = False,
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
        progress: Show a progress bar.
    """
    return _bench(subject, head_edits(subject, seed), sample, repeats, seed, progress)


@checked
def bench_sweep(
    subject: Subject,
    *,
    scales: Sequence[Finite] = SCALES,
    sample: Count = 6,
    repeats: Count = 5,
    seed: Seed = 0,
    progress: bool = False,
) -> BenchResult:
    """Add one random vector after every layer at every scale; see `bench_engine`.

    Args:
        subject: Model and prompt.
        scales: Factors of the vector.
        sample: See `bench_engine`.
        repeats: See `bench_engine`.
        seed: Seed of the vector and of the sample.
        progress: Show a progress bar.
    """
    model = subject.model
    vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(seed)).to(model.device)
    edits = [Edit(layer, scale * vector, mode="add") for layer in range(model.n_layers) for scale in scales]
    return _bench(subject, edits, sample, repeats, seed, progress)


@checked
def bench_compose(
    subject: Subject,
    *,
    vectors: Count = 100,
    layer: Whole | None = None,
    sample: Count = 12,
    repeats: Count = 5,
    seed: Seed = 0,
    progress: bool = False,
) -> BenchResult:
    """Score a basis of random vectors on one prompt, all at one layer; see `bench_engine`.

    Args:
        subject: Model and prompt.
        vectors: Number of vectors in the basis, with random directions.
        layer: Layer after which vectors are added; default: the middle.
        sample: See `bench_engine`.
        repeats: See `bench_engine`.
        seed: Seed of the vectors and of the sample.
        progress: Show a progress bar.

    Raises:
        LensFVError: the layer does not exist.
    """
    model, rng = subject.model, torch.Generator().manual_seed(seed)
    layer = model.layer_at(0.5) if layer is None else model.check_layer(layer)
    rows = torch.randn(vectors, model.d_model, generator=rng).to(model.device)
    return _bench(subject, [Edit(layer, row, mode="add") for row in rows], sample, repeats, seed, progress)


def head_edits(subject: Subject, seed: int) -> list[Edit]:
    """One edit per head that replaces its output by a random one."""
    model, rng = subject.model, torch.Generator().manual_seed(seed)
    heads = [(layer, head) for layer in model.attention_layers for head in range(model.n_heads)]
    values = torch.randn(len(heads), model.d_head, generator=rng).to(model.device)
    return [Edit(layer, value, head=head) for (layer, head), value in zip(heads, values, strict=True)]


@torch.no_grad()
def compare_engine(
    clock: Clock, model: LensModel, prompt: tuple[int, ...], branches: Sequence[Branch], repeats: int, tick: Callable[[], None]
) -> tuple[Cost, Cost]:
    """The costs of a plain forward pass that unembeds the last token, and of all branches in the engine."""
    tokens = torch.tensor([prompt], device=model.device)

    def plain() -> Tensor:
        states: list[Tensor] = []
        model.run_body(tokens, [model.last_state_hook(states)])
        return model.unembed(states[0][0, -1])

    engine = partial(run_branches, model, [prompt], branches, readout=answer_logprobs)
    costs = clock.compare({"plain": [plain] * repeats, "engine": [engine] * repeats}, "plain", tick)
    return costs["plain"], costs["engine"]


@torch.no_grad()
def _bench(subject: Subject, edits: Sequence[Edit], sample: int, repeats: int, seed: int, progress: bool) -> BenchResult:
    model, prompt, clock = subject.model, subject.prompt, Clock(subject.model)
    branches, n_edits = [Branch((edit,), tokens=(0,)) for edit in edits], len(edits)
    sampled = random.Random(seed).sample(range(n_edits), min(sample, n_edits))
    states = run_branches(model, [prompt], [branches[i] for i in sampled])[0, :, 0]
    loop_times: list[float] = []
    errors: list[float] = []
    with progress_bar("bench", repeats + len(sampled), show=progress) as tick:
        plain, engine = compare_engine(clock, model, prompt, branches, repeats, tick)
        for i, state in zip(sampled, states, strict=True):
            duration, logits = clock.time(partial(_plain_patch, subject, edits[i]))
            loop_times.append(duration)
            errors.append(float((model.unembed(state).float().softmax(-1) - logits.float().softmax(-1)).abs().max()))
            tick()
    loop_s = statistics.mean(loop_times) * n_edits
    # On average, an edit runs one row through half of the layers.
    products = (len(prompt) + n_edits / 2) * body_weights(model) + n_edits * model.d_model * model.d_vocab
    return subject.result(
        prompt_tokens=len(prompt),
        backend=choose_backend(model),
        edits=n_edits,
        loop_sample=len(sampled),
        plain_forward_s=plain.seconds,
        engine_s=engine.seconds,
        loop_s=loop_s,
        speedup_vs_loop=loop_s / engine.seconds,
        plain_forwards=engine.time_ratio,
        max_abs_error=max(errors),
        peak_memory_ratio=engine.memory_ratio,
        **clock.floor(2 * products, engine.seconds),
    )


def _plain_patch(subject: Subject, edit: Edit) -> Tensor:
    """The last token's logits under one edit, computed as a TransformerLens user would."""

    def change(x: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        if edit.head is not None:
            x[:, -1, edit.head] = edit.value.to(x)
        else:
            x[:, -1] += edit.value.to(x)
        return x

    return subject.model.forward(torch.tensor([subject.prompt]), [(edit.place, change)])[0, -1]
