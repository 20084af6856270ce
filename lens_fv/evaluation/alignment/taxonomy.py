"""Agreement of similarities with a taxonomy, tested by permuting items."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from lens_fv.core.choices import Count, Seed, checked
from lens_fv.core.results import Record
from lens_fv.errors import LensFVError
from lens_fv.evaluation.alignment.matrix import SimilarityMatrix
from lens_fv.evaluation.alignment.rsa import check_size, permutation_test

BATCH = 500
"""Number of permutations per batch; 30 MB for the pairs of 116 items."""


@dataclass(frozen=True, repr=False)
class TaxonomyStructure(Record):
    """Whether items of the same class are more similar than others.

    Attributes:
        within, between: Mean similarity within classes and between classes.
        difference: Within minus between.
        auc: Probability that two items of the same class are more similar than two of different classes; 0.5 is chance.
        difference_p_value, auc_p_value: One-sided permutation p-values.
        n_items, n_within, n_between: Numbers of items, of pairs within classes and of pairs between classes.
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
def taxonomy_structure(
    matrix: SimilarityMatrix, classes: Sequence[str], *, permutations: Count = 10_000, seed: Seed = 0
) -> TaxonomyStructure:
    """Test whether similarity is higher within the classes of a taxonomy than between them.

    Args:
        matrix: Similarities, some of which may be missing.
        classes: Class of each item, in the order of the matrix.
        permutations: Number of permutations of the items; all are used if there are no more.
        seed: Seed of the permutations.

    Raises:
        LensFVError: fewer than four items, a wrong number of classes, or no pair of items within or between classes.

    Example:
        >>> axes = {'a': [1.0, 0.0], 'b': [1.0, 0.1], 'c': [0.0, 1.0], 'd': [0.1, 1.0]}
        >>> matrix = lens_fv.evaluation.alignment.similarity_matrix({name: torch.tensor(axis) for name, axis in axes.items()})
        >>> lens_fv.evaluation.alignment.taxonomy_structure(matrix, ['x', 'x', 'y', 'y'], permutations=100).auc
        1.0
    """
    check_size(matrix)
    n = len(matrix.names)
    if len(classes) != n:
        raise LensFVError(f"taxonomy of {n} items: {len(classes)} classes are given; give one for each")
    labels, upper = np.unique(np.asarray(classes), return_inverse=True)[1], np.triu_indices(n, 1)
    known = np.isfinite(matrix.upper)
    within = (labels[upper[0]] == labels[upper[1]])[known]
    if not 0 < within.sum() < len(within):
        raise LensFVError(f"taxonomy of {n} items: {len(set(classes))} classes; some items have to share one, not all")
    values, ranks = np.where(known, matrix.upper, 0), np.zeros(len(known))
    ranks[known] = stats.rankdata(matrix.upper[known])

    def contrast(of: np.ndarray) -> Callable[..., np.ndarray]:
        """Mean within classes minus mean between them, for a batch of permutations."""

        def statistic(orders: np.ndarray, axis: int = -1) -> np.ndarray:  # noqa: ARG001
            permuted = labels[orders]
            within = permuted[..., upper[0]] == permuted[..., upper[1]]
            groups = within & known, ~within & known
            sizes = [group.sum(-1) for group in groups]
            means = [group @ of / np.maximum(size, 1) for group, size in zip(groups, sizes, strict=True)]
            return np.where((sizes[0] > 0) & (sizes[1] > 0), means[0] - means[1], 0.0)

        return statistic

    difference, difference_p_value = permutation_test(contrast(values), n, permutations, seed, batch=BATCH)
    # The mean ranks of two groups differ by (AUC - 1/2) times the total number (Mann and Whitney 1947).
    rank_difference, auc_p_value = permutation_test(contrast(ranks), n, permutations, seed, batch=BATCH)
    mean = float(matrix.upper[known][within].mean())
    return TaxonomyStructure(
        within=mean,
        between=mean - difference,
        difference=difference,
        difference_p_value=difference_p_value,
        auc=0.5 + rank_difference / len(within),
        auc_p_value=auc_p_value,
        n_items=n,
        n_within=int(within.sum()),
        n_between=int((~within).sum()),
    )
