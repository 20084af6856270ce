"""Agreement and structure, against SciPy, hand counts and planted truth."""

from itertools import permutations

import numpy as np
import pytest
import torch
from scipy import stats

from lens_fv.errors import LensFVError
from lens_fv.evaluation.alignment import SimilarityMatrix, compare_similarities, similarity_matrix, taxonomy_structure


def matrix_of(values, names="abcdefghijklmnopqrstuvwxyz") -> SimilarityMatrix:
    """A matrix from its upper triangle, row by row."""
    n = round((1 + (1 + 8 * len(values)) ** 0.5) / 2)
    matrix = np.ones((n, n))
    matrix[np.triu_indices(n, 1)] = values
    return SimilarityMatrix(tuple(names[:n]), np.triu(matrix) + np.triu(matrix, 1).T)


def drawn(n: int, seed: int) -> SimilarityMatrix:
    values = np.random.default_rng(seed).normal(size=n * (n - 1) // 2).round(1)  # rounded: some ties
    names = [f"r{i}" for i in range(n)]
    return matrix_of(values, names)


def vectors(per_class: int, spread: float, seed: int = 0) -> tuple[SimilarityMatrix, list[str]]:
    rng = torch.Generator().manual_seed(seed)
    centres = torch.randn(4, 32, generator=rng)
    rows = {
        f"{c}{i}": centres[k] * (1 - spread) + spread * torch.randn(32, generator=rng)
        for k, c in enumerate("wxyz")
        for i in range(per_class)
    }
    return similarity_matrix(rows), [name[0] for name in rows]


def test_cosines():
    rows = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([4.0, 3.0]), "c": torch.tensor([-3.0, -4.0])}
    matrix = similarity_matrix(rows)
    assert matrix.names == ("a", "b", "c")
    np.testing.assert_allclose(matrix.upper, [0.96, -1, -0.96])
    np.testing.assert_allclose(matrix.subset(["c", "a"]).values, [[1, -1], [-1, 1]])
    with pytest.raises(LensFVError, match="d: unknown"):
        matrix.subset(["a", "d"])
    with pytest.raises(LensFVError, match="length zero: z"):
        similarity_matrix({"a": torch.ones(2), "z": torch.zeros(2)})
    with pytest.raises(LensFVError, match="2 widths"):
        similarity_matrix({"a": torch.ones(2), "z": torch.ones(3)})
    with pytest.raises(LensFVError, match="not symmetric"):
        SimilarityMatrix(("a", "b"), np.array([[1, 0.5], [0.4, 1]]))


@pytest.mark.parametrize("judged", [1.0, 0.6])
def test_correlations_are_scipys_over_the_judged_pairs(judged):
    one, other = drawn(9, 0), drawn(9, 1)
    hidden = np.random.default_rng(2).random(36) > judged
    values = other.upper.copy()
    values[hidden] = np.nan
    other = matrix_of(values, one.names)
    x, y = one.upper[~hidden], values[~hidden]
    for coefficient, of in (("spearman", stats.spearmanr), ("pearson", stats.pearsonr)):
        agreement = compare_similarities(one, other, coefficient=coefficient, permutations=200, resamples=200)
        assert agreement.correlation.mean == pytest.approx(of(x, y).statistic)
        assert (agreement.correlation.n, agreement.n_pairs) == (9, len(x))
        assert agreement.correlation.ci_low < agreement.correlation.ci_high


@pytest.mark.parametrize("judged", [6, 5])
def test_p_counts_all_relabellings_by_hand(judged):
    """Four items have 24 orders."""
    one, truth = matrix_of([0.9, 0.2, 0.1, 0.3, 0.0, 0.8]), np.array([5.0, 2.0, 1.0, 2.0, 0.5, 4.0])
    truth[judged:] = np.nan
    known = np.isfinite(truth)
    upper = np.triu_indices(4, 1)

    def spearman(order):
        moved = one.values[np.ix_(order, order)][upper]
        return stats.spearmanr(moved[known], truth[known]).statistic

    every = np.array([spearman(list(order)) for order in permutations(range(4))])
    expected = np.mean(every >= spearman([0, 1, 2, 3]) - 1e-9)
    agreement = compare_similarities(one, matrix_of(truth), permutations=1000)
    assert agreement.p_value == pytest.approx(expected)
    assert 0 < expected < 0.5


def test_order_and_further_items_do_not_matter():
    one, other = drawn(8, 0), drawn(5, 1)
    again = compare_similarities(one, other.subset(other.names[::-1]), permutations=10)
    plain = compare_similarities(one.subset(other.names), other, permutations=10)
    assert again.correlation.mean == pytest.approx(plain.correlation.mean)


def test_agreement_is_found_where_it_is_and_only_there():
    one = drawn(14, 0)
    noisy = matrix_of(one.upper + 0.5 * drawn(14, 1).upper, one.names)
    agreement = compare_similarities(one, noisy, permutations=1000)
    assert agreement.p_value == pytest.approx(1 / 1001)
    assert 0 < agreement.correlation.ci_low < agreement.correlation.mean < agreement.correlation.ci_high <= 1
    ps = [compare_similarities(drawn(8, 2 * i), drawn(8, 2 * i + 1), permutations=200, resamples=2).p_value for i in range(60)]
    assert 0.3 < np.mean(ps) < 0.7
    assert np.mean(np.array(ps) < 0.05) < 0.15


def test_what_cannot_be_compared():
    with pytest.raises(LensFVError, match="at least 4"):
        compare_similarities(drawn(3, 0), drawn(3, 1))
    with pytest.raises(LensFVError, match="all the same"):
        compare_similarities(drawn(4, 0), matrix_of([1.0] * 6, drawn(4, 0).names))
    with pytest.raises(LensFVError, match="r4: unknown"):
        compare_similarities(drawn(4, 0), drawn(5, 1))
    with pytest.raises(LensFVError, match="swap the two"):
        compare_similarities(matrix_of([1.0, 2.0, np.nan, 3.0, 4.0, 5.0]), matrix_of([1.0, 2.0, 2.0, 3.0, 4.0, 5.0]))


def test_structure_by_hand():
    """Two classes of two: pairs ab and cd are alike, the other four are not."""
    matrix = matrix_of([0.9, 0.2, 0.1, 0.3, 0.0, 0.25])
    structure = taxonomy_structure(matrix, ["x", "x", "y", "y"])
    assert (structure.n_items, structure.n_within, structure.n_between) == (4, 2, 4)
    assert structure.within == pytest.approx(0.575)
    assert structure.between == pytest.approx(0.15)
    assert structure.difference == pytest.approx(0.425)
    # 0.9 beats all four, 0.25 beats three
    assert structure.auc == pytest.approx(7 / 8)
    # of the three ways to halve four items this is the best, with its 8 of 24 orders
    assert structure.difference_p_value == structure.auc_p_value == pytest.approx(1 / 3)


def test_auc_is_mann_whitneys_also_with_gaps_and_ties():
    matrix = drawn(10, 3)
    values = matrix.upper.copy()
    values[[0, 7, 20]] = np.nan
    matrix = matrix_of(values, matrix.names)
    labels = np.array(list("aaabbbccca"))
    i, j = np.triu_indices(10, 1)
    same, known = labels[i] == labels[j], np.isfinite(values)
    u = stats.mannwhitneyu(values[same & known], values[~same & known])
    structure = taxonomy_structure(matrix, list(labels), permutations=100)
    assert structure.auc == pytest.approx(u.statistic / (structure.n_within * structure.n_between))
    assert (structure.n_within, structure.n_between) == ((same & known).sum(), (~same & known).sum())


def test_a_planted_taxonomy_is_found_and_a_random_one_is_not():
    matrix, classes = vectors(5, spread=0.4)
    structure = taxonomy_structure(matrix, classes, permutations=1000)
    assert structure.auc > 0.95
    assert structure.difference > 0.2
    assert structure.auc_p_value == structure.difference_p_value == pytest.approx(1 / 1001)
    ps = [taxonomy_structure(*vectors(4, spread=1, seed=i), permutations=200).auc_p_value for i in range(60)]
    assert 0.3 < np.mean(ps) < 0.7
    assert np.mean(np.array(ps) < 0.05) < 0.15


@pytest.mark.parametrize("classes", [["x"] * 4, list("abcd"), ["x", "x", "y"]])
def test_no_taxonomy(classes):
    with pytest.raises(LensFVError, match="taxonomy of 4 items"):
        taxonomy_structure(drawn(4, 0), classes)
