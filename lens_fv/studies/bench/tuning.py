"""Tuning of vectors: the engine's partial passes compared with full forward and backward passes."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.core.choices import Count, Positive, Seed, Whole, checked
from lens_fv.model.lens_model import LensModel
from lens_fv.patching import choose_backend
from lens_fv.studies.bench.clock import Clock, body_weights
from lens_fv.studies.bench.subject import BenchResult, Subject
from lens_fv.tasks import EncodedPrompt, Task, encode_prompts, split_pairs, zero_shot
from lens_fv.vectors.batches import open_batches
from lens_fv.vectors.fitting import fit


@checked
def bench_tune(
    subject: Subject,
    *,
    n_pairs: Count = 20,
    steps: Count = 40,
    layer: Whole | None = None,
    learning_rate: Positive = 0.3,
    vectors: Count = 1,
    seed: Seed = 0,
    progress: bool = False,
) -> BenchResult:
    """Tune a vector from zero by Adam with a cosine schedule, once with the engine and once with full passes.

    Measures:
        backend: Backend of the engine; see `run_branches`.
        engine_s: Time for opening the prompts and for all steps in the engine, in seconds.
        full_s: Time of the same steps as full forward and backward passes of a vector's batch through TransformerLens. With
            several vectors, one is timed and multiplied by their number.
        speedup: full_s / engine_s.
        relative_difference: Norm of the difference of the two vectors / norm of the vector from full passes.
        floor_s, floor_fraction, product_gflops: As in `bench_engine`, for the engine's steps.

    Args:
        subject: Model to run, and task of the zero-shot training prompts; without a task, random prompts of 8 tokens with
            answers of 2 tokens.
        n_pairs: Number of training pairs.
        steps: Number of Adam steps.
        layer: Layer after which the vector is added; default: the middle.
        learning_rate: Learning rate of Adam.
        vectors: Number of vectors that the engine tunes together, each on its own pairs (other splits of the task).
        seed: Seed of the split or of the random prompts.
        progress: Show a progress bar.
    """
    model = subject.model
    layer = model.n_layers // 2 if layer is None else model.check_layer(layer)
    courses = [_prompts(model, subject.task, n_pairs, seed + i) for i in range(vectors)]
    clock = Clock(model)

    def fitted(n: int, loss: Callable[[Tensor], Tensor]) -> Float[Tensor, "n d_model"]:
        v = torch.nn.Parameter(torch.zeros(n, model.d_model, device=model.device))
        fit(
            [v],
            lambda: loss(v),
            lambda _: None,
            steps=steps,
            context="bench",
            checks=(),
            learning_rate=learning_rate,
            progress=progress,
        )
        return v.detach()

    def engine() -> Tensor:
        batches = open_batches(model, [(i, prompt) for i, prompts in enumerate(courses) for prompt in prompts])

        def loss(v: Tensor) -> Tensor:
            return torch.cat([batch.losses([layer], v[:, None])[:, 0] for batch in batches]).sum() / n_pairs

        return fitted(vectors, loss)

    backend = choose_backend(model)  # checks the model once, outside the timed runs
    engine_s, tuned = clock.time(engine)
    one_s, expected = clock.time(lambda: fitted(1, _full_loss(model, courses[0], layer)))
    full_s = one_s * vectors
    # A step runs the suffix through the layers above, forward and backward; with frozen weights both cost the same.
    tokens = sum(len(p.answers[0]) for prompts in courses for p in prompts)
    body = body_weights(model) * (model.n_layers - 1 - layer) / model.n_layers
    opening = 2 * sum(len(p.tokens) for prompts in courses for p in prompts) * body_weights(model)
    stepping = steps * 4 * tokens * (body + model.d_model * model.d_vocab)
    return subject.result(
        backend=backend,
        pairs=n_pairs,
        steps=steps,
        layer=layer,
        vectors=vectors,
        engine_s=engine_s,
        full_s=full_s,
        speedup=full_s / engine_s,
        relative_difference=float((tuned[0] - expected[0]).norm() / expected.norm()),
        **clock.floor(opening + stepping, engine_s),
    )


def _prompts(model: LensModel, task: Task | None, pairs: int, seed: int) -> list[EncodedPrompt]:
    if task is not None:
        return encode_prompts(model, [zero_shot(pair) for pair in split_pairs(task, seed=seed, n_train=pairs).train[:pairs]])
    rng = torch.Generator().manual_seed(seed)
    draw = torch.randint(model.d_vocab, (pairs, 10), generator=rng).tolist()
    return [EncodedPrompt(tuple(row[:8]), (tuple(row[8:]),)) for row in draw]


def _full_loss(model: LensModel, prompts: Sequence[EncodedPrompt], layer: int) -> Callable[[Tensor], Tensor]:
    """The tuning loss from one TransformerLens forward pass of all prompts with their answers, padded on the right."""
    texts = [torch.tensor([*p.tokens, *p.answers[0][:-1]]) for p in prompts]
    tokens = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
    last = torch.tensor([len(p.tokens) - 1 for p in prompts], device=model.device)
    rows = torch.arange(len(prompts), device=model.device)

    def loss(v: Tensor) -> Tensor:
        def add(x: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
            return x.index_put((rows, last), x[rows, last] + v[0].to(x))

        logprobs = model.forward(tokens, [(f"blocks.{layer}.hook_resid_post", add)]).float().log_softmax(-1)
        means = [
            logprobs[i, at : at + len(p.answers[0])].gather(1, torch.tensor(p.answers[0], device=v.device)[:, None]).mean()
            for i, (p, at) in enumerate(zip(prompts, last.tolist(), strict=True))
        ]
        return -torch.stack(means).mean()

    return loss
