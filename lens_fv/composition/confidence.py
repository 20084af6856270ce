"""When is a composite likely to help? Told from its own pair, before anything is known about C and D."""

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
    """A logistic regression on what a composite says about itself.

    Attributes:
        center, spread: of the features (`FEATURES`) it was fitted on.
        weights: of the features in units of their spread.
        bias: of the whole.
    """

    center: tuple[float, ...]
    spread: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float

    def __call__(self, features: Float[Tensor, "composites features"]) -> Float[Tensor, " composites"]:
        """Probability that each composite helps."""
        units = (features.double() - torch.tensor(self.center)) / torch.tensor(self.spread)
        return torch.sigmoid(units @ torch.tensor(self.weights, dtype=torch.float64) + self.bias).float()


def composite_features(
    weights: Float[Tensor, "composites relations"], source_gain: Float[Tensor, " composites"]
) -> Float[Tensor, "composites features"]:
    """Entropy of the weights (nats), and how much likelier the composite makes B behind A (nats a token)."""
    return torch.stack([torch.special.entr(weights).sum(-1), source_gain], -1)


@checked
def fit_confidence(
    features: Float[Tensor, "composites features"], helped: Bool[Tensor, " composites"], *, l2: NonNegative = 1e-2
) -> Confidence:
    """Fit it on composites of which it is known whether they helped.

    Args:
        features: see `composite_features`.
        helped: for each, whether it did, by any measure.
        l2: weight of the squared coefficients beside the mean loss.

    Raises:
        LensFVError: all helped or none did.
    """
    if bool(helped.all()) or not bool(helped.any()):
        raise LensFVError(
            f"fit a confidence on {len(helped)} composites: {'all' if helped.all() else 'none'} helped; give both"
        )
    x, y = features.double(), helped.double()
    center, spread = x.mean(0), x.std(0).clamp(min=1e-9)
    units = (x - center) / spread

    def loss(parameters: Any) -> tuple[float, Any]:
        at = torch.tensor(parameters, dtype=torch.float64, requires_grad=True)
        with torch.enable_grad():
            logits = units @ at[:-1] + at[-1]
            value = torch.nn.functional.binary_cross_entropy_with_logits(logits, y) + l2 * at[:-1].square().sum()
            value.backward()
        return float(value.detach()), at.grad.numpy()  # pyright: ignore[reportOptionalMemberAccess]

    *found, bias = minimize(loss, [0.0] * (x.shape[1] + 1), jac=True, method="L-BFGS-B").x.tolist()
    return Confidence(tuple(center.tolist()), tuple(spread.tolist()), tuple(found), bias)


def separation(scores: Float[Tensor, " composites"], helped: Bool[Tensor, " composites"]) -> tuple[float, float]:
    """Area under the ROC curve (0.5: no better than chance), and the p-value of Mann and Whitney's test.

    Raises:
        LensFVError: all helped or none did.
    """
    if bool(helped.all()) or not bool(helped.any()):
        raise LensFVError(f"separate {len(helped)} composites: {'all' if helped.all() else 'none'} helped")
    found = mannwhitneyu(scores[helped].numpy(), scores[~helped].numpy())
    return float(found.statistic) / (int(helped.sum()) * int((~helped).sum())), float(found.pvalue)
