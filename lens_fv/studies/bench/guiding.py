"""A guided step of training beside a plain low-rank one: time and memory."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lens_fv.artefact import Provenance
from lens_fv.guidance import PRESETS, Guide
from lens_fv.model.lens_model import LensModel
from lens_fv.model.plain import plain_model
from lens_fv.model.quiet import hushed
from lens_fv.studies.bench.clock import Clock, peak_memory
from lens_fv.studies.bench.subject import Subject
from lens_fv.vectors import FunctionVector

PLAIN = "lora"
N_HEADS = 10
ANSWER = 3
"""Tokens of each row that are targets."""


class Step(NamedTuple):
    """One way to train.

    Attributes:
        guide: its name, or "lora" for none.
        seconds, time_ratio: median of a step, and beside a plain one.
        bytes, memory_ratio: the peak of a step, weights included, and beside a plain one.
    """

    guide: str
    seconds: float
    time_ratio: float
    bytes: float
    memory_ratio: float


@dataclass(frozen=True)
class GuidedBench:
    """What `bench_guided` measured.

    Attributes:
        model, device, dtype, threads: what it ran on.
        rows, tokens: of the batch.
        steps: a way to train each, the plain one first.
        product_gflops: the rate of a matrix product, in 1e9 operations a second.
    """

    model: str
    device: str
    dtype: str
    threads: int
    rows: int
    tokens: int
    steps: tuple[Step, ...]
    product_gflops: float

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self) | {"steps": [step._asdict() for step in self.steps]}


def bench_guided(
    subject: Subject,
    *,
    guides: Sequence[str] = ("iv", "fv", "kl", "crossed"),
    rows: int = 8,
    tokens: int = 32,
    repeats: int = 5,
    seed: int = 0,
    tick: Callable[[], None] = lambda: None,
) -> GuidedBench:
    """Train random rows by a step of AdamW, with PEFT's rank 8 on queries and values, without and with guides.

    Args:
        subject: the model.
        guides: names of `PRESETS`.
        rows: of the batch.
        tokens: of each row; the last three are targets.
        repeats: runs that the median is taken of.
        seed: of tokens, heads and vectors.
        tick: called `repeats` times.
    """
    from peft import LoraConfig, get_peft_model

    model, clock = subject.model, Clock(subject.model)
    rng = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, model.d_vocab, (rows, tokens), generator=rng).to(model.device)
    labels = ids.clone()
    labels[:, :-ANSWER] = -100
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    with hushed():
        trained = get_peft_model(plain_model(model), LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16)).train()
    optimiser = torch.optim.AdamW([p for p in trained.parameters() if p.requires_grad], lr=1e-5)
    vector = _vector(model, rng, seed)
    prompts = torch.randint(1, model.d_vocab, (100, tokens - ANSWER), generator=rng).tolist()
    made = {name: Guide(trained, vector, PRESETS[name], crossed=prompts) for name in guides}
    runs = {PLAIN: _step(trained, optimiser, batch, None)}
    runs |= {name: _step(trained, optimiser, batch, guide) for name, guide in made.items()}
    seconds = clock.race(runs, repeats, tick)
    peaks = {name: peak_memory(model, run) for name, run in runs.items()}
    found = tuple(
        Step(name, seconds[name], seconds[name] / seconds[PLAIN], peaks[name], peaks[name] / peaks[PLAIN]) for name in runs
    )
    facts = {k: v for k, v in subject.facts().items() if k != "prompt_tokens"}
    return GuidedBench(**facts, rows=rows, tokens=tokens, steps=found, product_gflops=clock.rate / 1e9)


def _step(
    trained: Any, optimiser: torch.optim.Optimizer, batch: Mapping[str, Tensor], guide: Guide | None
) -> Callable[[], None]:
    def run() -> None:
        loss = trained(**batch).loss if guide is None else guide.loss(trained, batch)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return run


def _vector(model: LensModel, rng: torch.Generator, seed: int) -> FunctionVector:
    """Random, of random heads: speed does not depend on what it does."""
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
