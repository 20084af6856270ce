"""Agreement between similarity matrices and with a taxonomy, tested by permuting items."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from scipy import stats
from scipy.spatial.distance import squareform

from lens_fv.core.choices import Count, Level, Seed, checked
from lens_fv.core.results import Record
from lens_fv.core.statistics import Estimate
from lens_fv.errors import LensFVError
from lens_fv.evaluation.alignment.matrix import MIN_ITEMS, SimilarityMatrix

Coefficient = Literal["spearman", "pearson"]
BATCH = 500
"""Number of permutations per batch; 30 MB for the pairs of 116 items."""


@checked
@dataclass(frozen=True, repr=False)
class Agreement(Record):
    """Agreement of two similarity matrices.

    Attributes:
        coefficient: "spearman" or "pearson".
        correlation: correlation over pairs of items, with its bootstrap interval over items (the interval is NaN if too few
            resamples can be correlated) and the number of items.
        p_value: one-sided permutation p-value.
        n_pairs: number of pairs compared.
    """

    coefficient: Coefficient
    correlation: Estimate
    p_value: float
    n_pairs: int


@dataclass(frozen=True, repr=False)
class TaxonomyStructure(Record):
    """Whether items of the same class are more similar than others.

    Attributes:
        within, between: mean similarity within classes and between classes.
        difference: within minus between.
        auc: probability that two items of the same class are more similar than two of different classes; 0.5 is chance.
        difference_p_value, auc_p_value: one-sided permutation p-values.
        n_items, n_within, n_between: numbers of items, of pairs within classes and of pairs between classes.
    """

    within: float
    between: float
    difference: float
    difference_p_value: float
    auc: float
    auc_p_value: float
    n_items: int
    n_within: int
    n_between: int


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
        one: first matrix, such as cosines of vectors, complete for the items of `other`.
        other: second matrix, such as human judgements; determines the items and pairs compared.
        coefficient: "spearman" or "pearson".
        permutations: number of permutations of the items.
        resamples: number of bootstrap resamples of the items.
        level: confidence level of the interval.
        seed: seed of permutations and resamples.

    Raises:
        LensFVError: fewer than four items, an item that `one` lacks, a missing similarity in `one`, or a constant matrix.
    """
    _enough(other)
    values, known = one.subset(other.names), np.isfinite(other.upper)
    if not np.isfinite(values.upper).all():
        raise LensFVError("compare similarities: the first matrix lacks some among the second's items; swap the two")
    if min(np.ptp(values.upper), np.ptp(other.upper[known]) if known.sum() > 2 else 0) == 0:
        raise LensFVError(
            f"compare similarities of {len(other.names)} items over {known.sum()} pairs: all the same, or fewer than three; "
            "judge more pairs"
        )
    n, ranks = len(other.names), _ranks if coefficient == "spearman" else _as_is
    upper, truth = np.triu_indices(n, 1), ranks(other.upper[known])
    matrix, rerank = values.values, ranks
    if known.all():  # permuting moves the ranks of a complete triangle without changing them
        matrix, rerank = squareform(ranks(values.upper)), _as_is

    def agree(order: np.ndarray) -> float:
        moved = rerank(matrix[order[upper[0]], order[upper[1]]][known])
        return float(np.corrcoef(moved, truth)[0, 1])

    value, p = _against_relabelling(agree, n, permutations, seed)
    ends = _resampled(values.values, other.values, ranks, resamples, level, seed)
    return Agreement(coefficient, Estimate(value, *ends, n), p, int(known.sum()))


@checked
def taxonomy_structure(
    matrix: SimilarityMatrix, classes: Sequence[str], *, permutations: Count = 10_000, seed: Seed = 0
) -> TaxonomyStructure:
    """Test whether similarity is higher within the classes of a taxonomy than between them.

    Args:
        matrix: similarities, some of which may be missing.
        classes: class of each item, in the order of the matrix.
        permutations: number of permutations of the items; all are used if there are no more.
        seed: seed of the permutations.

    Raises:
        LensFVError: fewer than four items, a wrong number of classes, or no pair of items within or between classes.
    """
    _enough(matrix)
    n = len(matrix.names)
    if len(classes) != n:
        raise LensFVError(f"taxonomy of {n} items: {len(classes)} classes are given; give one for each")
    labels, upper = np.unique(np.asarray(classes), return_inverse=True)[1], np.triu_indices(n, 1)
    known = np.isfinite(matrix.upper)
    same = (labels[upper[0]] == labels[upper[1]])[known]
    if not 0 < same.sum() < len(same):
        raise LensFVError(f"taxonomy of {n} items: {len(set(classes))} classes; some items have to share one, not all")
    values, ranks = np.where(known, matrix.upper, 0), np.zeros(len(known))
    ranks[known] = stats.rankdata(matrix.upper[known])

    def contrast(of: np.ndarray) -> Callable[..., np.ndarray]:
        def statistic(orders: np.ndarray, axis: int = -1) -> np.ndarray:  # noqa: ARG001
            own = labels[orders]
            alike = own[..., upper[0]] == own[..., upper[1]]
            groups = alike & known, ~alike & known
            sizes = [group.sum(-1) for group in groups]
            within, between = (group @ of / np.maximum(size, 1) for group, size in zip(groups, sizes, strict=True))
            return np.where((sizes[0] > 0) & (sizes[1] > 0), within - between, 0.0)

        return statistic

    difference, difference_p = _against_relabelling(contrast(values), n, permutations, seed, batch=BATCH)
    # The mean ranks of two groups differ by (AUC - 1/2) times the total number (Mann and Whitney 1947).
    by_rank, auc_p = _against_relabelling(contrast(ranks), n, permutations, seed, batch=BATCH)
    alike = matrix.upper[known][same]
    return TaxonomyStructure(
        float(alike.mean()),
        float(alike.mean()) - difference,
        difference,
        difference_p,
        0.5 + by_rank / len(same),
        auc_p,
        n,
        int(same.sum()),
        int((~same).sum()),
    )


def _enough(matrix: SimilarityMatrix) -> None:
    if len(matrix.names) < MIN_ITEMS:
        raise LensFVError(f"compare similarities of {len(matrix.names)} items: it takes at least {MIN_ITEMS}")


def _against_relabelling(
    statistic: Callable[..., Any], n: int, permutations: int, seed: int, *, batch: int | None = None
) -> tuple[float, float]:
    """Return a statistic and its permutation p-value; with `batch`, the statistic takes this many permutations at once."""
    found = stats.permutation_test(
        (np.arange(n),),
        statistic,
        permutation_type="pairings",
        vectorized=batch is not None,
        batch=batch,
        n_resamples=permutations,
        alternative="greater",
        rng=np.random.default_rng(seed),
    )
    return float(found.statistic), float(found.pvalue)


def _resampled(
    one: np.ndarray,
    other: np.ndarray,
    ranks: Callable[[np.ndarray], np.ndarray],
    resamples: int,
    level: float,
    seed: int,
) -> tuple[float, float]:
    n, rng = len(one), np.random.default_rng(seed)
    upper, found = np.triu_indices(n, 1), []
    for _ in range(resamples):
        drawn = rng.integers(n, size=n)
        i, j = drawn[upper[0]], drawn[upper[1]]
        some = (i != j) & np.isfinite(other[i, j])
        x, y = one[i, j][some], other[i, j][some]
        if len(x) > 2 and np.ptp(x) and np.ptp(y):
            found.append(np.corrcoef(ranks(x), ranks(y))[0, 1])
    if len(found) < resamples / 2:
        return float("nan"), float("nan")
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _ranks(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    return stats.rankdata(values)


def _as_is(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    return values
