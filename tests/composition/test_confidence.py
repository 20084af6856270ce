"""Confidence: a logistic regression that finds what is planted, and nothing where there is nothing."""

import pytest
import torch
from scipy.optimize import minimize

from lens_fv.composition import composite_features, fit_confidence, roc_auc
from lens_fv.errors import LensFVError


def planted(n: int = 400, strength: float = 3.0):
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(n, 2, generator=rng) * torch.tensor([1.0, 5.0]) + torch.tensor([2.0, -1.0])
    chance = torch.sigmoid(strength * (features[:, 1] + 1) / 5)
    return features, torch.rand(n, generator=rng) < chance


def test_it_finds_what_is_planted_and_ranks_unseen_cases_by_it():
    features, helped = planted()
    confidence = fit_confidence(features[:200], helped[:200])
    assert abs(confidence.weights[0]) < 0.5 < confidence.weights[1]
    auc, p = roc_auc(confidence(features[200:]), helped[200:])
    assert auc > 0.8
    assert p < 1e-6
    shuffled = helped[torch.randperm(400, generator=torch.Generator().manual_seed(1))]
    nothing = fit_confidence(features[:200], shuffled[:200])
    assert roc_auc(nothing(features[200:]), shuffled[200:])[1] > 0.01


def test_it_is_the_regularised_maximum_of_the_likelihood():
    features, helped = planted(60)
    confidence = fit_confidence(features, helped, l2=0.1)
    x = ((features.double() - features.double().mean(0)) / features.double().std(0)).numpy()
    y = helped.double().numpy()

    def loss(at):
        logits = x @ at[:2] + at[2]
        return (torch.nn.functional.softplus(torch.tensor(logits)).numpy() - y * logits).mean() + 0.1 * (at[:2] ** 2).sum()

    best = minimize(loss, [0.0, 0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-12, "maxiter": 5000})
    assert [*confidence.weights, confidence.bias] == pytest.approx(best.x.tolist(), abs=1e-3)


def test_features_and_areas_by_hand():
    weights = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    features = composite_features(weights, torch.tensor([2.0, -1.0]))
    torch.testing.assert_close(features, torch.tensor([[0.0, 2.0], [0.6931472, -1.0]]))
    scores, helped = torch.tensor([0.9, 0.4, 0.5, 0.1]), torch.tensor([True, True, False, False])
    assert roc_auc(scores, helped)[0] == 0.75


def test_one_outcome_teaches_nothing():
    with pytest.raises(LensFVError, match="all helped; give both"):
        fit_confidence(torch.randn(3, 2), torch.ones(3, dtype=torch.bool))
    with pytest.raises(LensFVError, match="none helped"):
        roc_auc(torch.randn(3), torch.zeros(3, dtype=torch.bool))
