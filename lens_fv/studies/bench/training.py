"""Time and memory of training steps with each method, and of teaching one entity, compared with plain fine-tuning."""

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor

from lens_fv.core.artefact import Provenance
from lens_fv.core.choices import Count, Seed, checked
from lens_fv.core.progress import progress_bar
from lens_fv.errors import LensFVError
from lens_fv.finetuning.regularizers import PRESETS, Guide
from lens_fv.finetuning.regularizers.penalties import OrthogonalBlocks, ewc_penalty, fisher_information
from lens_fv.knowledge import DistillConfig, Entity, TransferSet, distill, finetune_on_texts, generate_transfer_set
from lens_fv.model.lens_model import LensModel
from lens_fv.model.plain import plain_model
from lens_fv.model.quiet import quiet_logs
from lens_fv.studies.bench.clock import Clock
from lens_fv.studies.bench.subject import BenchResult, Subject
from lens_fv.vectors import FunctionVector

PLAIN, FINETUNED = "lora", "fine-tuned"
"""The plain methods that the others are compared with."""
METHODS = (*PRESETS, "ewc", "o-lora", "full")
"""Methods other than plain low-rank fine-tuning: guides, penalties on weights, and training of all weights."""
RANK = 8
N_HEADS = 10
ANSWER = 3
"""Number of target tokens per row."""


@checked
def bench_guided(
    subject: Subject,
    *,
    methods: Sequence[str] = ("iv", "fv", "kl", "swap", "swap-kl"),
    rows: Count = 8,
    tokens: Annotated[int, Ge(5)] = 32,
    repeats: Count = 5,
    seed: Seed = 0,
    progress: bool = False,
) -> BenchResult:
    """Time a step of AdamW on random rows, with PEFT's rank 8 on queries and values, for plain training and other methods.

    The learning rate is 0: the arithmetic is that of training, but the weights do not change. The measure `steps` is a table
    with a line for each method, whose ratios are to plain training.

    Args:
        subject: Model to train.
        methods: Methods to compare with plain training: guide presets, ewc, o-lora or full.
        rows: Number of rows in the batch.
        tokens: Number of tokens per row; the last three are targets.
        repeats: Number of runs for the median.
        seed: Seed of tokens, heads and vectors.
        progress: Show a progress bar.

    Raises:
        LensFVError: a method is unknown.
    """
    if unknown := [name for name in methods if name not in METHODS]:
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
    with progress_bar("bench", repeats, show=progress) as tick:
        costs = clock.compare({name: [run] * repeats for name, run in runs.items()}, PLAIN, tick)
    steps = [{"method": name, **cost._asdict()} for name, cost in costs.items()]
    return subject.result(rows=rows, tokens=tokens, steps=steps, product_gflops=clock.rate / 1e9)


@checked
def bench_teach(
    subject: Subject,
    entities: Sequence[Entity],
    *,
    n_sentences: Count = 5,
    seed: Seed = 0,
    progress: bool = False,
) -> BenchResult:
    """Let a model write sentences about each entity, and teach each entity separately in three ways.

    Measures:
        entities: Number of entities taught, each on its own.
        sentences: Mean number of sentences per entity, including the repeated definition.
        writing_s: Median time in which the model writes an entity's sentences, in seconds.
        ways: A line for each way to teach: by distillation, by fine-tuning on the same sentences, and by fine-tuning all
            weights on them. Times are medians over entities, from sentences to the update; memory is the peak for the first
            entity. Ratios are to fine-tuning.

    Args:
        subject: Model to teach.
        entities: Entities to teach.
        n_sentences: Number of sentences that the model writes per entity; the definition is added twice.
        seed: Seed of sentences, anchors and their order.
        progress: Show a progress bar.

    Raises:
        LensFVError: the model wrote no sentence about any entity, or `generate_transfer_set` or `distill` raises.
    """
    clock = Clock(subject.model)
    writing: list[float] = []
    counts: list[int] = []
    ways: dict[str, list[Callable[[], Any]]] = {}
    with progress_bar("bench", 2 * len(entities), show=progress) as tick:
        for entity in entities:
            generate = partial(generate_transfer_set, subject.model, [entity], n_sentences=n_sentences, seed=seed)
            duration, transfer_set = clock.time(generate)
            writing.append(duration)
            if sentences := transfer_set.sentences.get(entity.key):
                counts.append(len(sentences) + DistillConfig.for_entities(1).n_definitions)
                for name, teach in _ways(subject.model, entity, transfer_set, seed).items():
                    ways.setdefault(name, []).append(teach)
            tick()
        if not ways:
            raise LensFVError(f"teach {subject.model.name}: it wrote no sentence about {len(entities)} entities; ask for more")
        costs = clock.compare(ways, FINETUNED, tick)
    return subject.result(
        entities=len(counts),
        sentences=statistics.fmean(counts),
        writing_s=statistics.median(writing),
        ways=[{"name": name, **cost._asdict()} for name, cost in costs.items()],
    )


def _ways(model: LensModel, entity: Entity, transfer_set: TransferSet, seed: int) -> Mapping[str, Callable[[], Any]]:
    settings = DistillConfig.for_entities(1, seed=seed)
    full = DistillConfig(update="full", epochs=settings.epochs, seed=seed)  # the same number of epochs
    texts = [transfer_set.with_definitions([entity], n_copies=settings.n_definitions).sentences[entity.key]]
    return {
        "distilled": lambda: distill(model, [entity], transfer_set, settings),
        FINETUNED: lambda: finetune_on_texts(model, [entity], texts, settings),
        f"{FINETUNED}, all weights": lambda: finetune_on_texts(model, [entity], texts, full),
    }


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
        initial = {name: p.detach().clone() for name, p in trained.named_parameters() if p.requires_grad}
        before = initial if PRESETS[name].teacher == "previous" else None
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
