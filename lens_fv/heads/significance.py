"""Significance of many effects at once: sign-flip tests with correction for multiple testing."""

from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy import stats

Correction = Literal["holm", "bh", "max", "none"]
AT_ONCE = 2**22
"""Maximum number of flipped means held in memory at once."""


def p_values(
    values: Float[np.ndarray, "samples tests"],
    *,
    correction: Correction = "holm",
    resamples: int | None = None,
    seed: int = 0,
) -> Float[np.ndarray, " tests"]:
    """Two-sided p-values of "the mean is zero", corrected for the number of tests.

    A permutation test that flips the samples' signs. It assumes only that values are symmetric around zero when there is no
    effect. Student's t does not apply, because changes in probability are far from normal; Wilcoxon's test uses ranks, whereas
    heads are ordered by the mean. All flips are enumerated if they number at most `resamples`; otherwise random flips are
    drawn. A p-value is never below 2 ** (1 - samples), nor below 1 / (resamples + 1).

    Args:
        values: Independent samples (trials, tasks) of every test (head).
        correction: Correction for the number of tests: "holm" (family-wise, Holm 1979), "max" (family-wise, by the largest
            statistic over all tests for each flip, which is more powerful for correlated tests; Westfall & Young 1993,
            Nichols & Holmes 2002), "bh" (false discovery rate, Benjamini & Hochberg 1995) or "none".
        resamples: Number of random flips; default: 100 per test, at least 99,999.
        seed: Seed of the random flips.
    """
    own, largest = _sign_flips(values.astype(float), resamples or _resamples(values.shape[1]), np.random.default_rng(seed))
    if correction == "max":
        return largest
    if correction == "holm":
        return holm(own)
    return stats.false_discovery_control(own) if correction == "bh" else own


def holm(p: Float[np.ndarray, " tests"]) -> Float[np.ndarray, " tests"]:
    """Holm's step-down adjusted p-values (Holm 1979)."""
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


def least_p(n_samples: int, n_tests: int, correction: Correction) -> float:
    """The smallest p-value that `p_values` can return: for "holm" when a single test stands out, otherwise when all do."""
    least = max(0.5 ** (n_samples - 1), 1 / (_resamples(n_tests) + 1))
    return min(1.0, least * (n_tests if correction == "holm" else 1))


def _resamples(n_tests: int) -> int:
    return max(99_999, 100 * n_tests)


def _sign_flips(values: np.ndarray, resamples: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Each test's own p-value, and its p-value by the largest statistic over all tests."""
    n, tests = values.shape
    # Flips do not change a test's sum of squares, so the mean divided by its root orders flips as Student's t does.
    size = np.sqrt((values**2).sum(0))
    unit = values / np.where(size > 0, size, 1)
    seen = np.abs(unit.sum(0)) - 1e-9  # tolerance, so that the unflipped samples count whatever the order of summation
    exact = n <= 50 and 2 ** (n - 1) <= resamples
    total = 2 ** (n - 1) if exact else resamples
    own, largest = np.zeros(tests), np.zeros(tests)
    step = max(1, AT_ONCE // tests)
    for start in range(0, total, step):
        rows = np.arange(start, min(start + step, total))
        # Flipping all signs changes no two-sided statistic, so the first sign can stay fixed.
        bits = (rows[:, None] >> np.arange(n)) & 1 if exact else rng.integers(0, 2, (len(rows), n))
        flipped = np.abs((1.0 - 2.0 * bits) @ unit)
        own += (flipped >= seen).sum(0)
        largest += (flipped.max(1, keepdims=True) >= seen).sum(0)
    return (own / total, largest / total) if exact else ((own + 1) / (total + 1), (largest + 1) / (total + 1))
