"""Statistics of head effects: sign-flip tests with correction, split-half reliability, and overlap of sets of heads."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from lens_fv.core.choices import Count, checked
from lens_fv.core.results import Record
from lens_fv.errors import LensFVError

Correction = Literal["holm", "bh", "max", "none"]
MAX_MEANS = 2**22
"""Maximum number of flipped means held in memory at once."""


def strongest(scores: Float[Tensor, "layers units"], n: int | None = None) -> list[tuple[int, int]]:
    """(layer, unit) of the `n` largest scores (default: all), in descending order."""
    order: list[int] = scores.flatten().argsort(descending=True, stable=True)[:n].tolist()
    return [divmod(i, scores.shape[1]) for i in order]


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
    observed = np.abs(unit.sum(0)) - 1e-9  # tolerance, so that the unflipped samples count whatever the order of summation
    exact = n <= 50 and 2 ** (n - 1) <= resamples
    total = 2 ** (n - 1) if exact else resamples
    own, largest = np.zeros(tests), np.zeros(tests)
    step = max(1, MAX_MEANS // tests)
    for start in range(0, total, step):
        rows = np.arange(start, min(start + step, total))
        # Flipping all signs changes no two-sided statistic, so the first sign can stay fixed.
        bits = (rows[:, None] >> np.arange(n)) & 1 if exact else rng.integers(0, 2, (len(rows), n))
        flipped = np.abs((1.0 - 2.0 * bits) @ unit)
        own += (flipped >= observed).sum(0)
        largest += (flipped.max(1, keepdims=True) >= observed).sum(0)
    return (own / total, largest / total) if exact else ((own + 1) / (total + 1), (largest + 1) / (total + 1))


@dataclass(frozen=True, repr=False)
class Reliability(Record):
    """Agreement of the mean effects of two halves of the samples, averaged over random halvings.

    Attributes:
        spearman: Rank correlation of the two halves over all heads.
        spearman_brown: The correlation extrapolated to all samples (Spearman-Brown: 2 r / (1 + |r|)).
        overlap: Fraction of the `k` strongest heads of one half that are among the `k` strongest of the other.
        chance: Expected overlap of two random sets of `k` heads.
        k: Number of heads that `overlap` compares.
    """

    spearman: float
    spearman_brown: float
    overlap: float
    chance: float
    k: int


def split_half(values: Float[np.ndarray, "samples tests"], *, k: int = 10, n_splits: int = 500, seed: int = 0) -> Reliability:
    """Split-half reliability of the order of mean effects: would other samples give the same ranking?

    If the number of independent samples (trials, tasks) is odd, each split omits one.

    Raises:
        LensFVError: there are fewer than four samples, or `k` is not a possible size of a proper subset of the tests.
    """
    n, tests = values.shape
    if n < 4:
        raise LensFVError(f"split {n} samples into halves: it takes at least 4")
    if tests < 2 or not 1 <= k <= tests:
        raise LensFVError(f"compare the top {k} of {tests}: ask for 1 to {tests}, of at least 2")
    rng = np.random.default_rng(seed)
    correlations, overlaps = np.zeros(n_splits), np.zeros(n_splits)
    for i in range(n_splits):
        order = rng.permutation(n)
        one, other = values[order[: n // 2]].mean(0), values[order[n // 2 : n // 2 * 2]].mean(0)
        correlations[i] = np.corrcoef(stats.rankdata(one), stats.rankdata(other))[0, 1]
        overlaps[i] = len(np.intersect1d(np.argsort(-one)[:k], np.argsort(-other)[:k])) / k
    r = float(correlations.mean())
    return Reliability(r, 2 * r / (1 + abs(r)), float(overlaps.mean()), k / tests, k)


@dataclass(frozen=True, repr=False)
class Overlap(Record):
    """Overlap of two sets of heads, compared with random sets of the same sizes.

    Attributes:
        n_shared: Number of heads in both sets.
        expected_shared: Expected number of heads that random sets share.
        jaccard: Jaccard index: heads in both, as a fraction of heads in either.
        expected_jaccard: Expected Jaccard index of random sets.
        p_value: Probability that random sets share at least as many heads (hypergeometric).
    """

    n_shared: int
    expected_shared: float
    jaccard: float
    expected_jaccard: float
    p_value: float


@checked
def head_overlap(one: Collection[tuple[int, int]], other: Collection[tuple[int, int]], n: Count) -> Overlap:
    """Number of heads that two sets share, and their Jaccard index, with their chance levels.

    Args:
        one: (layer, head) pairs without repetition.
        other: (layer, head) pairs without repetition.
        n: Total number of heads to choose from.

    Raises:
        LensFVError: a set is empty, or has more heads than the total.

    Example:
        >>> overlap = lens_fv.heads.head_overlap([(0, 1), (2, 3)], [(2, 3), (1, 0)], n=12)
        >>> overlap.n_shared
        1
    """
    first, second = set(one), set(other)
    if not first or not second or max(len(first), len(second)) > n:
        raise LensFVError(f"overlap of {len(first)} and {len(second)} of {n} heads: give 1 to {n} in each set")
    sizes, shared = len(first) + len(second), len(first & second)
    random_shared: Any = stats.hypergeom(n, len(first), len(second))
    # Two sets that together exceed the total must overlap.
    possible = range(max(0, sizes - n), min(len(first), len(second)) + 1)
    expected_jaccard = sum(float(random_shared.pmf(k)) * k / (sizes - k) for k in possible)
    expected_shared = len(first) * len(second) / n
    return Overlap(shared, expected_shared, shared / (sizes - shared), expected_jaccard, float(random_shared.sf(shared - 1)))
