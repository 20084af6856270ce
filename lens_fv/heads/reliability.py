"""Would other trials give the same ranking?"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from lens_fv.errors import LensFVError


class Reliability(NamedTuple):
    """How well the mean effects of one half of the samples repeat in the other half, on average over random halves.

    Attributes:
        spearman: rank correlation of the two halves over all heads.
        corrected: the same for all samples rather than half of them (Spearman-Brown: 2 r / (1 + |r|)).
        overlap: share of the `k` strongest heads of one half that are among the `k` strongest of the other.
        chance: the overlap of two random sets of `k` heads.
        k: how many heads `overlap` counts.
    """

    spearman: float
    corrected: float
    overlap: float
    chance: float
    k: int


def split_half(values: Float[np.ndarray, "samples tests"], *, k: int = 10, n_splits: int = 500, seed: int = 0) -> Reliability:
    """Split-half reliability of the order of mean effects.

    Args:
        values: independent samples (trials, tasks) of every test (head); of an odd number one is left out of each split.
        k: size of the top that is compared.
        n_splits: random halvings to average over.
        seed: of the halvings.

    Raises:
        LensFVError: fewer than four samples, or a `k` that is no size of a part of the tests.
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
