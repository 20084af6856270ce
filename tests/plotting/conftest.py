"""Artefacts with made-up numbers: what figures are drawn from."""

from collections.abc import Callable

import pytest
import torch

from lens_fv.artefact import Provenance
from lens_fv.evaluation import Evaluation
from lens_fv.patching import HeadRanking
from lens_fv.patching.answers import AnswerScores

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
            carry=torch.zeros(LAYERS, 8),
            resid_norm=torch.ones(LAYERS),
            metric=metric,  # pyright: ignore[reportArgumentType]
        )

    return make


@pytest.fixture
def ranking(make_ranking: Callable[..., HeadRanking]) -> HeadRanking:
    return make_ranking()


@pytest.fixture
def make_scores() -> Callable[..., AnswerScores]:
    def make(prompts: int = 12, layers: int = LAYERS, seed: int = 0) -> AnswerScores:
        generator = torch.Generator().manual_seed(seed)
        hits = torch.rand(prompts, layers, generator=generator) < torch.linspace(0, 1, layers)
        return AnswerScores(hits, hits, hits, -torch.rand(prompts, layers, generator=generator))

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
            full=hits & (torch.arange(items) % 2 == 0)[:, None],
            logprob=-torch.rand(items, len(rates), generator=torch.Generator().manual_seed(0)),
        )

    return make


@pytest.fixture
def evaluations(make_evaluation: Callable[..., Evaluation]) -> dict[str, Evaluation]:
    rates = {"none": 0.0, "k_shot": 0.9, "extracted": 0.3, "tuned": 0.8, "random": 0.0, "other_relation": 0.05}
    short = {"none": 0.1, "k_shot": 0.6, "tuned": 0.5, "random": 0.0}
    return {"present-past": make_evaluation(rates), "antonym": make_evaluation(short)}
