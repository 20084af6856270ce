"""How well cheap head scores approximate the exact indirect effect."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from lens_fv.core.artefact import Artefact, require_shape
from lens_fv.core.choices import Count, Level, Whole, checked
from lens_fv.core.statistics import Estimate
from lens_fv.core.tables import DataFrame, data_frame
from lens_fv.errors import LensFVError
from lens_fv.heads.ranking import Metric
from lens_fv.heads.statistics import Overlap, head_overlap, strongest

Score = Literal["exact", "attribution", "direct"]
Coefficient = Literal["spearman", "kendall"]
SCORE_NAMES: dict[Score, str] = {
    "exact": "exact effect",
    "attribution": "attribution patching",
    "direct": "direct logit attribution",
}
_COEFFICIENTS: dict[Coefficient, Callable[..., Any]] = {"spearman": stats.spearmanr, "kendall": stats.kendalltau}


@checked
@dataclass(frozen=True, repr=False, eq=False)
class HeadComparison(Artefact):
    """Two cheap scores of every head and its exact indirect effect, per trial, for the same intervention.

    Attributes:
        exact: Metric with the head's mean clean output patched in, minus the unpatched metric (`HeadRanking.effects`).
        attribution: Attribution patching: the first-order approximation of `exact`, in units of the metric.
        direct: Direct logit attribution: what the replacement adds to the logit of the answer's first token (relative to the
            mean logit) without passing through later layers.
        metric: Metric of `exact` and `attribution`: "prob" or "logprob" of the answer's first token.
    """

    exact: Float[Tensor, "trials layers heads"]
    attribution: Float[Tensor, "trials layers heads"]
    direct: Float[Tensor, "trials layers heads"]
    metric: Metric

    def __post_init__(self) -> None:
        """Check shapes against the provenance."""
        shape = (len(self.exact), *self.provenance.shape[:2])
        for score, name in SCORE_NAMES.items():
            require_shape(f"head comparison's {name}", getattr(self, score), shape)

    @checked
    def mean(self, score: Score) -> Float[Tensor, "layers heads"]:
        """A score averaged over trials."""
        return getattr(self, score).mean(0)

    @checked
    def correlation(
        self, score: Score, *, coefficient: Coefficient = "spearman", level: Level = 0.95, resamples: Count = 500
    ) -> Estimate:
        """Rank correlation of a score with the exact effect over all heads, both averaged over trials.

        The interval is a percentile bootstrap over trials, resampled jointly for both, and shows how much the correlation
        depends on the prompts. Resampled means are noisier than the means themselves, so the interval is biased towards zero.

        Args:
            score: Score to correlate; see `HeadComparison`.
            coefficient: Spearman's rho or Kendall's tau (tau-b, which accounts for ties).
            level: Level of the interval.
            resamples: Number of bootstrap resamples.
        """
        exact, other = (x.flatten(1).numpy(force=True) for x in (self.exact, getattr(self, score)))

        def correlate(trials: np.ndarray) -> float:
            return float(_COEFFICIENTS[coefficient](exact[trials].mean(0), other[trials].mean(0)).statistic)

        trials = np.arange(len(exact))
        value = correlate(trials)
        if len(trials) < 2:
            return Estimate(value, value, value, len(trials))
        ends = stats.bootstrap(
            (trials,),
            correlate,
            vectorized=False,
            n_resamples=resamples,
            confidence_level=level,
            method="percentile",
            rng=np.random.default_rng(self.provenance.seed),
        ).confidence_interval
        return Estimate(value, float(ends.low), float(ends.high), len(trials))

    @checked
    def overlap(self, score: Score, k: Whole = 10) -> Overlap:
        """Overlap of the `k` heads with the largest exact effect and the `k` with the largest score.

        Raises:
            LensFVError: `k` is not between 1 and the number of heads.
        """
        n = self.exact[0].numel()
        if not 1 <= k <= n:
            raise LensFVError(f"compare the top {k} heads: take between 1 and all {n} of them")
        return head_overlap(strongest(self.mean("exact"), k), strongest(self.mean(score), k), n)

    def heatmap_data(self) -> Tensor:
        """The mean scores of attribution patching."""
        return self.mean("attribution")

    def to_dataframe(self) -> DataFrame:
        """One row per head: its exact effect and both scores, averaged over trials."""
        exact, attribution, direct = (self.mean(score) for score in ("exact", "attribution", "direct"))
        return data_frame(
            {
                "layer": layer,
                "head": head,
                "exact_effect": float(exact[layer, head]),
                "attribution": float(attribution[layer, head]),
                "direct_attribution": float(direct[layer, head]),
            }
            for layer, head in np.ndindex(*exact.shape)
        )

    def summary(self) -> dict[str, str]:
        """See `Artefact.summary`."""
        lines = super().summary() | {"trials": str(len(self.exact)), "exact effect on": self.metric}
        n_heads = self.exact[0].numel()
        for score in ("attribution", "direct"):
            rho, tau = (self.correlation(score, coefficient=c) for c in ("spearman", "kendall"))
            overlaps = {k: self.overlap(score, k) for k in (5, 10, 20) if k <= n_heads}
            shared = ", ".join(f"{o.n_shared} of {k} (chance {o.expected_shared:.1f})" for k, o in overlaps.items())
            lines[SCORE_NAMES[score]] = f"Spearman {rho:+.2f}, Kendall {tau:+.2f}"
            if shared:
                lines[SCORE_NAMES[score]] += f", top heads shared: {shared}"
        return lines
