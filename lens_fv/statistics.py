"""Intervals: is it more than chance?"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats


def wilson_interval(successes: int, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval for a proportion (Wilson 1927)."""
    found = stats.binomtest(successes, n).proportion_ci(confidence_level=level, method="wilson")
    return float(found.low), float(found.high)


def bootstrap_interval(values: Sequence[float], *, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of independent values (10,000 resamples)."""
    data = np.asarray(values, dtype=float)
    if np.ptp(data) == 0:
        return float(data.mean()), float(data.mean())
    low, high = bootstrap_means(data, level=level, resamples=10_000, batch=None, seed=seed)
    return float(low), float(high)


class Estimate(NamedTuple):
    """A mean and how sure it is.

    Attributes:
        mean: of independent values.
        low, high: its bootstrap interval.
        n: values.
    """

    mean: float
    low: float
    high: float
    n: int


def estimate(values: Sequence[float], *, level: float = 0.95, seed: int = 0) -> Estimate:
    """The mean of independent values, at least one, with its bootstrap interval."""
    return Estimate(float(np.mean(values)), *bootstrap_interval(values, level=level, seed=seed), len(values))


def bootstrap_means(
    values: Float[np.ndarray, "samples ..."], *, level: float, resamples: int, seed: int, batch: int | None = 200
) -> Float[np.ndarray, "2 ..."]:
    """Percentile bootstrap of the mean over samples: lower and upper end at every place; a single sample is its own interval.

    Args:
        values: independent samples.
        level: of confidence.
        resamples: how many.
        seed: of them.
        batch: resamples held at once; None: all.
    """
    if len(values) < 2:
        return np.stack([values[0], values[0]])
    found = stats.bootstrap(
        (values,),
        np.mean,
        axis=0,
        n_resamples=resamples,
        batch=batch,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return np.stack([found.low, found.high])
