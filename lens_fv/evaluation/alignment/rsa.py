"""Agreement between similarity matrices, tested by permuting items."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats
from scipy.spatial.distance import squareform

from lens_fv.core.choices import Count, Level, Seed, checked
from lens_fv.core.results import Record
from lens_fv.core.statistics import Estimate
from lens_fv.errors import LensFVError
from lens_fv.evaluation.alignment.matrix import MIN_ITEMS, SimilarityMatrix

Coefficient = Literal["spearman", "pearson"]


@checked
@dataclass(frozen=True, repr=False)
class Agreement(Record):
    """Agreement of two similarity matrices.

    Attributes:
        coefficient: "spearman" or "pearson".
        correlation: Correlation over pairs of items, with its bootstrap interval over items (the interval is NaN if too few
            resamples can be correlated) and the number of items.
        p_value: One-sided permutation p-value.
        n_pairs: Number of pairs compared.
    """

    coefficient: Coefficient
    correlation: Estimate
    p_value: float
    n_pairs: int


@checked
def compare_similarities(
    one: SimilarityMatrix,
    other: SimilarityMatrix,
    *,
    coefficient: Coefficient = "spearman",
    permutations: Count = 10_000,
    resamples: Count = 1_000,
    level: Level = 0.95,
    seed: Seed = 0,
) -> Agreement:
    """Representational similarity analysis (Kriegeskorte, Mur and Bandettini 2008): correlate the upper triangles.

    Pairs of items are not independent. The p-value therefore comes from permuting the items of one matrix (Mantel 1967), and
    the interval from resampling items (Nili et al. 2014; two copies of the same item are not compared). If there are at most
    `permutations` permutations, all are used.

    Args:
        one: First matrix, such as cosines of vectors, complete for the items of `other`.
        other: Second matrix, such as human judgements; determines the items and pairs compared.
        coefficient: "spearman" or "pearson".
        permutations: Number of permutations of the items.
        resamples: Number of bootstrap resamples of the items.
        level: Confidence level of the interval.
        seed: Seed of permutations and resamples.

    Raises:
        LensFVError: fewer than four items, an item that `one` lacks, a missing similarity in `one`, or a constant matrix.

    Example:
        >>> vectors = dict(zip('abcde', torch.randn(5, 8, generator=torch.Generator().manual_seed(0)), strict=True))
        >>> matrix = lens_fv.evaluation.alignment.similarity_matrix(vectors)
        >>> agreement = lens_fv.evaluation.alignment.compare_similarities(matrix, matrix, permutations=20, resamples=20)
        >>> agreement.correlation.mean > 0.999
        True
    """
    check_size(other)
    values, judged = one.subset(other.names), np.isfinite(other.upper)
    if not np.isfinite(values.upper).all():
        raise LensFVError("compare similarities: the first matrix lacks some among the second's items; swap the two")
    if min(np.ptp(values.upper), np.ptp(other.upper[judged]) if judged.sum() > 2 else 0) == 0:
        raise LensFVError(
            f"compare similarities of {len(other.names)} items over {judged.sum()} pairs: all the same, or fewer than three; "
            "judge more pairs"
        )
    n = len(other.names)
    upper = np.triu_indices(n, 1)
    transform = stats.rankdata if coefficient == "spearman" else np.asarray
    truth, matrix, transform_permuted = transform(other.upper[judged]), values.values, transform
    if judged.all():  # permuting moves the ranks of a complete triangle without changing them
        matrix, transform_permuted = squareform(transform(values.upper)), np.asarray

    def correlation(order: np.ndarray) -> float:
        permuted = transform_permuted(matrix[order[upper[0]], order[upper[1]]][judged])
        return float(np.corrcoef(permuted, truth)[0, 1])

    value, p_value = permutation_test(correlation, n, permutations, seed)
    rng, resampled = np.random.default_rng(seed), list[float]()
    for _ in range(resamples):
        items = rng.integers(n, size=n)
        i, j = items[upper[0]], items[upper[1]]
        compared = (i != j) & np.isfinite(other.values[i, j])
        x, y = values.values[i, j][compared], other.values[i, j][compared]
        if len(x) > 2 and np.ptp(x) and np.ptp(y):
            resampled.append(np.corrcoef(transform(x), transform(y))[0, 1])
    low, high = np.nan, np.nan
    if len(resampled) >= resamples / 2:
        low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Agreement(coefficient, Estimate(value, float(low), float(high), n), p_value, int(judged.sum()))


def check_size(matrix: SimilarityMatrix) -> None:
    """Raise `LensFVError` if a matrix has too few items for a comparison."""
    if len(matrix.names) < MIN_ITEMS:
        raise LensFVError(f"compare similarities of {len(matrix.names)} items: it takes at least {MIN_ITEMS}")


def permutation_test(
    statistic: Callable[..., Any], n: int, permutations: int, seed: int, *, batch: int | None = None
) -> tuple[float, float]:
    """Return a statistic and its permutation p-value; with `batch`, the statistic takes this many permutations at once."""
    result = stats.permutation_test(
        (np.arange(n),),
        statistic,
        permutation_type="pairings",
        vectorized=batch is not None,
        batch=batch,
        n_resamples=permutations,
        alternative="greater",
        rng=np.random.default_rng(seed),
    )
    return float(result.statistic), float(result.pvalue)
