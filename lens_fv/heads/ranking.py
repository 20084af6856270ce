"""Effects of all heads per sample, their order and its uncertainty; and the result of a head ranking."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_fv.core.artefact import Artefact, require_shape
from lens_fv.core.choices import Count, Level, Whole, checked
from lens_fv.core.statistics import Estimate, bootstrap_means
from lens_fv.core.tables import DataFrame, data_frame
from lens_fv.errors import LensFVError
from lens_fv.heads.competence import queries_summary
from lens_fv.heads.statistics import Correction, Reliability, least_p, p_values, split_half, strongest

Unit = Literal["head", "group"]
Metric = Literal["prob", "logprob", "logit", "logit_diff"]


class HeadEffect(NamedTuple):
    """Mean effect of one head (or key/value group) over samples, with its interval."""

    layer: int
    head: int
    effect: Estimate

    @property
    def name(self) -> str:
        """Layer and head, as in "9.3"."""
        return f"{self.layer}.{self.head}"


@dataclass(frozen=True, repr=False, eq=False)
class Effects(Artefact):
    """Effects of every head on independent samples: the trials of one task, or the means of several tasks.

    Attributes:
        effects: One effect per sample and unit. A unit is a head, or a group of query heads that share keys and values.
        unit: Unit of the last axis: "head" or "group".
    """

    effects: Float[Tensor, "samples layers units"]
    unit: Unit = field(default="head", kw_only=True)

    def __post_init__(self) -> None:
        """Check shapes against the provenance."""
        layers, heads, *_ = self.provenance.shape
        units = heads if self.unit == "head" else self.effects.shape[-1]
        require_shape(f"{type(self).__name__}'s effects", self.effects, (len(self.effects), layers, units))
        if not len(self.effects) or heads % units:
            raise LensFVError(f"{type(self).__name__}: {len(self.effects)} samples of {units} {self.unit}s, {heads} heads")

    @property
    def mean(self) -> Float[Tensor, "layers units"]:
        """Mean effect of each head over samples."""
        return self.effects.mean(0)

    @checked
    def interval(self, *, level: Level = 0.95, resamples: Count = 2000) -> Float[Tensor, "2 layers units"]:
        """Percentile bootstrap interval over samples: lower and upper end, separately per head."""
        values = self.effects.numpy(force=True)
        return torch.from_numpy(bootstrap_means(values, level=level, resamples=resamples, seed=self.provenance.seed))

    @checked
    def top(self, n: Count | None = None) -> list[HeadEffect]:
        """The `n` heads (default: all) with the largest mean effect, in descending order."""
        numbers, samples = torch.stack([self.mean, *self.interval()], -1), len(self.effects)
        return [HeadEffect(i, j, Estimate(*numbers[i, j].tolist(), n=samples)) for i, j in strongest(self.mean, n)]

    @checked
    def heads(self, n: Whole) -> tuple[tuple[int, int], ...]:
        """(layer, query head) of the `n` strongest heads, or of all heads in the `n` strongest groups.

        Raises:
            LensFVError: `n` exceeds the number of heads or groups.
        """
        total = self.mean.numel()
        if not 1 <= n <= total:
            raise LensFVError(f"asked for {n} {self.unit}s of {self.provenance.model}: it has {total}")
        size = self.provenance.shape[1] // self.mean.shape[1]
        return tuple((layer, unit * size + i) for layer, unit in strongest(self.mean, n) for i in range(size))

    @checked
    def p_values(self, *, correction: Correction = "holm") -> Float[Tensor, "layers units"]:
        """Two-sided sign-flip p-values of every head, corrected for multiple tests; see `lens_fv.heads.statistics`.

        The samples are assumed independent. Trials that repeat a query, for lack of validation pairs, are less so.

        Args:
            correction: See `p_values`.
        """
        p = torch.ones(self.mean.shape, dtype=torch.float64)
        p[self._live] = torch.from_numpy(p_values(self._tests(), correction=correction, seed=self.provenance.seed))
        return p

    @checked
    def significant(self, *, level: Level = 0.05, correction: Correction = "holm") -> list[HeadEffect]:
        """The heads with a mean effect that differs significantly from zero, in either direction, largest effect first.

        Args:
            level: Error rate: the family-wise error rate for "holm" and "max", the false discovery rate for "bh".
            correction: See `p_values`.

        Raises:
            LensFVError: with so few samples no effect, however large, could be significant.
        """
        n, tests = len(self.effects), int(self._live.sum())
        if (least := least_p(n, tests, correction)) > level:
            enough = (f"run {more}" for more in range(n, 64) if least_p(more, tests, correction) <= level)
            advice = next(enough, "raise the level")
            if least_p(n, tests, "max") <= level:
                advice += ' or use correction="max"'
            raise LensFVError(
                f"significant {self.unit}s of {self.provenance.model} at {level}: {n} samples give no p-value below "
                f"{least:.2g} ({correction}, {tests} {self.unit}s); {advice}"
            )
        p = self.p_values(correction=correction)
        return [h for h in self.top() if p[h.layer, h.head] <= level]

    @checked
    def reliability(self, *, k: Count = 10, n_splits: Count = 500) -> Reliability:
        """Agreement of random halves of the samples on the order of heads; see `Reliability`."""
        return split_half(self._tests(), k=k, n_splits=n_splits, seed=self.provenance.seed)

    def heatmap_data(self) -> Tensor:
        """The mean effects."""
        return self.mean

    @checked
    def to_dataframe(self, *, correction: Correction | None = "holm") -> DataFrame:
        """One row per head (or group), largest effect first: effect with its interval, number of samples, and p-value.

        Args:
            correction: Correction of the p-values; see `p_values`. None leaves them out, which is faster.

        Example:
            >>> ranking = lens_fv.rank_heads(model, task, n_shots=2, n_clean=4, n_trials=4)
            >>> list(ranking.to_dataframe().columns)
            ['layer', 'head', 'effect', 'ci_low', 'ci_high', 'n', 'p_value']
        """
        heads = self.top()
        rows: list[dict[str, Any]] = [{"layer": h.layer, self.unit: h.head, "effect": h.effect} for h in heads]
        if correction is not None:
            p = self.p_values(correction=correction)
            rows = [row | {"p_value": float(p[h.layer, h.head])} for row, h in zip(rows, heads, strict=True)]
        return data_frame(rows)

    def summary(self) -> dict[str, str]:
        """See `Artefact.summary`."""
        best = ", ".join(f"{h.name} {h.effect:+.3g}" for h in self.top(5))
        return super().summary() | {f"top {self.unit}s": best}

    @property
    def _live(self) -> Bool[Tensor, "layers units"]:
        """Mask of the units that exist: in hybrid models, layers without attention have no heads and no effects."""
        return (self.effects != 0).any(0)

    def _tests(self) -> Float[np.ndarray, "samples tests"]:
        return self.effects[:, self._live].numpy(force=True)


@checked
@dataclass(frozen=True, repr=False, eq=False)
class HeadRanking(Effects):
    """Indirect effect of every head on a task, per trial.

    Attributes:
        effects: Metric with the head patched minus the unpatched metric, per corrupted prompt.
        baseline: Unpatched metric of the corrupted prompts.
        z, post_attn_gain, resid_norm: `HeadMeans` over the clean prompts, from which `extract` builds a vector.
        metric: Measure of the answer's first token; see `rank_heads`.
    """

    _MADE_BY: ClassVar[str] = "rank_heads"

    baseline: Float[Tensor, " trials"]
    z: Float[Tensor, "layers heads d_head"]
    post_attn_gain: Float[Tensor, "layers d_model"]
    resid_norm: Float[Tensor, " layers"]
    metric: Metric

    def __post_init__(self) -> None:
        """Check shapes against the provenance."""
        super().__post_init__()
        layers, heads, d_model, d_head = self.provenance.shape
        require_shape("head ranking's baseline", self.baseline, (len(self.effects),))
        require_shape("head ranking's mean outputs", self.z, (layers, heads, d_head))
        require_shape("head ranking's post_attn_gain", self.post_attn_gain, (layers, d_model))

    def summary(self) -> dict[str, str]:
        """See `Artefact.summary`."""
        baseline = f"{float(self.baseline.mean()):.3f}"
        counts = {"trials": str(len(self.effects)), f"baseline {self.metric}": baseline}
        return super().summary() | counts | queries_summary(self.provenance)
