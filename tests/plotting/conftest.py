"""Artefacts with made-up numbers: what figures are drawn from."""

from collections.abc import Callable

import pytest
import torch

from lens_fv.core.artefact import Provenance
from lens_fv.evaluation import Evaluation
from lens_fv.heads import HeadRanking
from lens_fv.vectors import InjectionSweep

LAYERS, HEADS = 6, 3


def provenance(task: str, **options: int) -> Provenance:
    return Provenance("tiny", None, "raw", "float32", True, (LAYERS, HEADS, 8, 4), task, "t", "p", 0, "made up", options)


@pytest.fixture
def make_ranking() -> Callable[..., HeadRanking]:
    def make(metric: str = "prob", task: str = "toy", trials: int = 20) -> HeadRanking:
        generator = torch.Generator().manual_seed(0)
        effects = 0.02 * torch.randn(trials, LAYERS, HEADS, generator=generator)
        effects[:, 4, 2] += 0.3
        effects[:, 1, 0] -= 0.5
        return HeadRanking(
            provenance=provenance(task),
            effects=effects,
            baseline=torch.zeros(trials),
            z=torch.zeros(LAYERS, HEADS, 4),
            post_attn_gain=torch.zeros(LAYERS, 8),
            resid_norm=torch.ones(LAYERS),
            metric=metric,  # pyright: ignore[reportArgumentType]
        )

    return make


@pytest.fixture
def ranking(make_ranking: Callable[..., HeadRanking]) -> HeadRanking:
    return make_ranking()


@pytest.fixture
def make_sweep() -> Callable[..., InjectionSweep]:
    def make(items: int = 12, scales: tuple[float, ...] = (1.0,), seed: int = 0) -> InjectionSweep:
        generator = torch.Generator().manual_seed(seed)
        shape = (items, LAYERS, len(scales))
        hits = torch.rand(shape, generator=generator) < torch.linspace(0, 1, LAYERS)[:, None]
        nothing = hits[:, 0, 0] & False
        return InjectionSweep(
            provenance=provenance("toy"),
            layers=tuple(range(LAYERS)),
            scales=scales,
            site="resid_post",
            subset="validation",
            top1=hits,
            exact_match=hits,
            logprob=-torch.rand(shape, generator=generator),
            plain_top1=nothing,
            plain_exact_match=nothing,
            plain_logprob=-torch.ones(items),
        )

    return make


@pytest.fixture
def make_evaluation() -> Callable[..., Evaluation]:
    def make(rates: dict[str, float], task: str = "toy", n_shots: int = 10, items: int = 20) -> Evaluation:
        hits = torch.stack([torch.arange(items) < round(rate * items) for rate in rates.values()], 1)
        return Evaluation(
            provenance=provenance(task, n_shots=n_shots),
            conditions=tuple(rates),
            prompts="zero_shot",
            top1=hits,
            top3=hits,
            exact_match=hits & (torch.arange(items) % 2 == 0)[:, None],
            logprob=-torch.rand(items, len(rates), generator=torch.Generator().manual_seed(0)),
        )

    return make


@pytest.fixture
def evaluations(make_evaluation: Callable[..., Evaluation]) -> dict[str, Evaluation]:
    rates = {"none": 0.0, "k_shot": 0.9, "extracted": 0.3, "tuned": 0.8, "random": 0.0, "other_relation": 0.05}
    short = {"none": 0.1, "k_shot": 0.6, "tuned": 0.5, "random": 0.0}
    return {"present-past": make_evaluation(rates), "antonym": make_evaluation(short)}
