"""Split-half reliability of head rankings: would other trials give the same ranking?"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats

from lens_fv.core.results import Record
from lens_fv.errors import LensFVError


@dataclass(frozen=True, repr=False)
class Reliability(Record):
    """Agreement of the mean effects of two halves of the samples, averaged over random halvings.

    Attributes:
        spearman: Rank correlation of the two halves over all heads.
        corrected: The correlation extrapolated to all samples (Spearman-Brown: 2 r / (1 + |r|)).
        overlap: Fraction of the `k` strongest heads of one half that are among the `k` strongest of the other.
        chance: Expected overlap of two random sets of `k` heads.
        k: Number of heads that `overlap` compares.
    """

    spearman: float
    corrected: float
    overlap: float
    chance: float
    k: int


def split_half(values: Float[np.ndarray, "samples tests"], *, k: int = 10, n_splits: int = 500, seed: int = 0) -> Reliability:
    """Split-half reliability of the order of mean effects.

    Args:
        values: Independent samples (trials, tasks) of every test (head). If their number is odd, each split omits one.
        k: Number of top heads to compare.
        n_splits: Number of random halvings to average over.
        seed: Seed of the halvings.

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
