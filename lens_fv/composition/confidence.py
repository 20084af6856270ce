"""Prediction of whether a composite helps, from its source pair alone."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from scipy.optimize import minimize
from scipy.stats import mannwhitneyu
from torch import Tensor

from lens_fv.core.choices import NonNegative, checked
from lens_fv.errors import LensFVError

FEATURES = ("entropy", "source_gain")


@dataclass(frozen=True)
class Confidence:
    """A logistic regression on the features of a composite.

    Attributes:
        center, spread: Mean and spread of the features (`FEATURES`) it was fitted on.
        weights: Coefficients of the standardised features.
        bias: Intercept.
    """

    center: tuple[float, ...]
    spread: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float

    def __call__(self, features: Float[Tensor, "composites features"]) -> Float[Tensor, " composites"]:
        """Probability that each composite helps."""
        units = (features.double() - torch.tensor(self.center)) / torch.tensor(self.spread)
        return torch.sigmoid(units @ torch.tensor(self.weights, dtype=torch.float64) + self.bias).float()


@checked
def composite_features(
    weights: Float[Tensor, "composites relations"], source_gain: Float[Tensor, " composites"]
) -> Float[Tensor, "composites features"]:
    """Features of composites: weight entropy (nats), and gain in log-probability of B after A (nats per token).

    Example:
        >>> weights, gain = torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.tensor([0.1, -0.2])
        >>> lens_fv.composition.composite_features(weights, gain).shape
        torch.Size([2, 2])
    """
    return torch.stack([torch.special.entr(weights).sum(-1), source_gain], -1)


@checked
def fit_confidence(
    features: Float[Tensor, "composites features"], helped: Bool[Tensor, " composites"], *, l2: NonNegative = 1e-2
) -> Confidence:
    """Fit the regression on composites with known outcomes.

    Args:
        features: See `composite_features`.
        helped: Whether each composite helped, by any measure.
        l2: Weight of the squared coefficients relative to the mean loss.

    Raises:
        LensFVError: all helped or none did.

    Example:
        >>> features = torch.tensor([[0.1, 2.0], [0.9, -1.0], [0.2, 1.0], [0.8, -2.0]])
        >>> confidence = lens_fv.composition.fit_confidence(features, torch.tensor([True, False, True, False]))
        >>> [round(p) for p in confidence(features).tolist()]
        [1, 0, 1, 0]
    """
    _require_both(helped, "fit a confidence on")
    x, y = features.double(), helped.double()
    center, spread = x.mean(0), x.std(0).clamp(min=1e-9)
    units = (x - center) / spread

    def loss(parameters: Any) -> tuple[float, Any]:
        values = torch.tensor(parameters, dtype=torch.float64, requires_grad=True)
        with torch.enable_grad():
            weights, bias = values[:-1], values[-1]
            logits = units @ weights + bias
            value = torch.nn.functional.binary_cross_entropy_with_logits(logits, y) + l2 * weights.square().sum()
            value.backward()
        return float(value.detach()), values.grad.numpy()  # pyright: ignore[reportOptionalMemberAccess]

    *weights, bias = minimize(loss, [0.0] * (x.shape[1] + 1), jac=True, method="L-BFGS-B").x.tolist()
    return Confidence(tuple(center.tolist()), tuple(spread.tolist()), tuple(weights), bias)


@checked
def roc_auc(scores: Float[Tensor, " composites"], helped: Bool[Tensor, " composites"]) -> tuple[float, float]:
    """Area under the ROC curve (0.5 is chance), and the p-value of the Mann-Whitney test.

    Raises:
        LensFVError: all helped or none did.

    Example:
        >>> lens_fv.composition.roc_auc(torch.tensor([0.9, 0.8, 0.3, 0.1]), torch.tensor([True, True, False, False]))[0]
        1.0
    """
    _require_both(helped, "separate")
    test = mannwhitneyu(scores[helped].numpy(), scores[~helped].numpy())
    return float(test.statistic) / (int(helped.sum()) * int((~helped).sum())), float(test.pvalue)


def _require_both(helped: Bool[Tensor, " composites"], context: str) -> None:
    if helped.all() or not helped.any():
        raise LensFVError(f"{context} {len(helped)} composites: {'all' if helped.all() else 'none'} helped; give both")
