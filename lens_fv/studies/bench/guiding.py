"""Time and memory of regularised training steps, compared with a plain low-rank step."""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor

from lens_fv.core.artefact import Provenance
from lens_fv.core.choices import Count, Seed
from lens_fv.errors import LensFVError
from lens_fv.finetuning.regularizers import PRESETS, Guide
from lens_fv.finetuning.regularizers.penalties import OrthogonalBlocks, ewc_penalty, fisher_information
from lens_fv.model.lens_model import LensModel
from lens_fv.model.plain import plain_model
from lens_fv.model.quiet import quiet_logs
from lens_fv.studies.bench.clock import Clock, compared, peak_memory
from lens_fv.studies.bench.subject import BenchResult, Subject
from lens_fv.vectors import FunctionVector

PLAIN = "lora"
METHODS = (*PRESETS, "ewc", "o-lora", "full")
"""Methods other than plain low-rank fine-tuning: guides, penalties on weights, and training of all weights."""
RANK = 8
N_HEADS = 10
ANSWER = 3
"""Number of target tokens per row."""


def bench_guided(
    subject: Subject,
    *,
    methods: Sequence[str] = ("iv", "fv", "kl", "swap", "swap-kl"),
    rows: Count = 8,
    tokens: Annotated[int, Ge(5)] = 32,
    repeats: Count = 5,
    seed: Seed = 0,
    tick: Callable[[], None] = lambda: None,
) -> BenchResult:
    """Time a step of AdamW on random rows, with PEFT's rank 8 on queries and values, for plain training and other methods.

    The learning rate is 0: the arithmetic is that of training, but the weights do not change. The measure `steps` is a table
    with a line for each method; see `compared`.

    Args:
        subject: Model to train.
        methods: Methods to compare with plain training: guide presets, ewc, o-lora or full.
        rows: Number of rows in the batch.
        tokens: Number of tokens per row; the last three are targets.
        repeats: Number of runs for the median.
        seed: Seed of tokens, heads and vectors.
        tick: Called `repeats` times.

    Raises:
        LensFVError: a method is unknown.
    """
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise LensFVError(f"train by {', '.join(unknown)}: choose from {', '.join(METHODS)}")
    model, clock = subject.model, Clock(subject.model)
    rng = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, model.d_vocab, (rows, tokens), generator=rng).to(model.device)
    labels = ids.clone()
    labels[:, :-ANSWER] = -100
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    vector = _vector(model, rng, seed)
    prompts = torch.randint(1, model.d_vocab, (100, tokens - ANSWER), generator=rng).tolist()
    # "full" comes last, because its optimiser's state stays in memory after its first step
    names = sorted({PLAIN, *methods}, key=(PLAIN, *METHODS).index)
    runs = {name: _step(model, name, vector, prompts, batch) for name in names}
    peaks: dict[str, float] = {}
    for name, run in runs.items():
        run()  # the first call includes one-time allocations
        peaks[name] = peak_memory(model, run)
    seconds = clock.race(runs, repeats, tick)
    steps = compared(seconds, peaks, PLAIN, "method")
    return subject.result(rows=rows, tokens=tokens, steps=steps, product_gflops=clock.rate / 1e9)


def _step(
    model: LensModel, name: str, vector: FunctionVector, prompts: Sequence[Sequence[int]], batch: Mapping[str, Tensor]
) -> Callable[[], None]:
    """A training step with one method, on its own copy that shares the model's weights."""
    from peft import LoraConfig, get_peft_model

    trained: Any = plain_model(model)
    if name == "full":
        trained.requires_grad_(True)
    else:
        blocks = 2 if name == "o-lora" else 1
        with quiet_logs():
            trained = get_peft_model(trained, LoraConfig(task_type="CAUSAL_LM", r=blocks * RANK, lora_alpha=16))
    optimiser = torch.optim.AdamW([p for p in trained.train().parameters() if p.requires_grad], lr=0.0)
    guide: Guide | None = None
    if name in PRESETS:
        own = {each: p.detach().clone() for each, p in trained.named_parameters() if p.requires_grad}
        before = own if PRESETS[name].teacher == "previous" else None
        guide = Guide(trained, vector, PRESETS[name], previous=before, swap_prompts=prompts)
    penalties: list[Callable[[], Tensor]] = []
    if name == "ewc":
        penalties.append(ewc_penalty(trained, fisher_information(trained, [batch]), 1.0))
    if name == "o-lora":
        penalties.append(OrthogonalBlocks(trained, RANK, 1, 1.0))

    def run() -> None:
        loss = trained(**batch).loss if guide is None else guide.loss(trained, batch)
        sum((penalty() for penalty in penalties), start=loss).backward()
        optimiser.step()
        optimiser.zero_grad()

    return run


def _vector(model: LensModel, rng: torch.Generator, seed: int) -> FunctionVector:
    """A random vector with random heads; speed does not depend on its effect."""
    places = [(layer, head) for layer in model.attention_layers for head in range(model.n_heads)]
    heads = tuple(random.Random(seed).sample(places, min(N_HEADS, len(places))))
    provenance = Provenance.of(model, task="bench", task_hash="", prompts=[], seed=seed, method="random", options={})
    return FunctionVector(
        provenance=provenance,
        vector=torch.randn(model.d_model, generator=rng),
        head_outputs=torch.randn(len(heads), model.d_head, generator=rng),
        layer=model.n_layers // 3,
        resid_norm=1.0,
        heads=heads,
    )
