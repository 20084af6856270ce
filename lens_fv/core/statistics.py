"""Means and proportions with their confidence intervals."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from lens_fv.core.choices import Count, Level, Natural, NonNegative, Seed, checked
from lens_fv.core.estimate import Estimate as Estimate


@checked
def proportion(successes: Natural | NonNegative, n: Count, *, level: Level = 0.95) -> Estimate:
    """A proportion with Wilson's interval (Wilson 1927). Successes may be fractional, as with tied choices.

    Example:
        >>> proportion(0, 10).ci_low
        0.0
    """
    z2, p = float(stats.norm.ppf((1 + level) / 2)) ** 2, successes / n
    middle, half = p + z2 / (2 * n), math.sqrt(z2 / n * (p * (1 - p) + z2 / (4 * n)))
    low, high = (middle - half) / (1 + z2 / n), (middle + half) / (1 + z2 / n)
    return Estimate(p, 0.0 if successes == 0 else low, 1.0 if successes == n else high, n)


@checked
def estimate(values: Sequence[float], *, level: Level = 0.95, seed: Seed = 0) -> Estimate:
    """The mean of one or more independent values, with its percentile bootstrap interval (10,000 resamples).

    Example:
        >>> estimate([1.0, 1.0, 1.0])
        Estimate(1 [1, 1], n=3)
    """
    data = np.asarray(values, dtype=float)
    mean = float(data.mean())
    if np.ptp(data) == 0:
        return Estimate(mean, mean, mean, len(data))
    low, high = bootstrap_means(data, level=level, resamples=10_000, batch=None, seed=seed)
    return Estimate(mean, float(low), float(high), len(data))


def choice_shares(scores: Float[Tensor, "choices conditions"], right: int) -> Float[Tensor, " conditions"]:
    """Score of the correct choice: 1 if it is the best, 1/k if k choices including it tie for the best, else 0.

    Example:
        >>> import torch
        >>> choice_shares(torch.tensor([[2.0, 1.0, 0.0], [2.0, 0.0, 1.0]]), 0).tolist()
        [0.5, 1.0, 0.0]
    """
    best = scores == scores.amax(0)
    return best[right].float() / best.sum(0)


def bootstrap_means(
    values: Float[np.ndarray, "samples ..."], *, level: float, resamples: int, seed: int, batch: int | None = 200
) -> Float[np.ndarray, "2 ..."]:
    """Percentile bootstrap of the mean over samples: lower and upper end, elementwise; a single sample is its own interval.

    Args:
        values: Independent samples.
        level: Confidence level.
        resamples: Number of resamples.
        seed: Seed of the resampling.
        batch: Number of resamples held in memory at once; None: all.
    """
    if len(values) < 2:
        return np.stack([values[0], values[0]])
    ends = stats.bootstrap(
        (values,),
        np.mean,
        axis=0,
        n_resamples=resamples,
        batch=batch,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return np.stack([ends.low, ends.high])
