"""Corrected p-values against SciPy, enumeration and a worked example; their error rates on data without effect."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from lens_fv.heads.statistics import holm, least_p, p_values


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def test_holm_is_the_worked_example():
    """Four p-values of 0.01, 0.04, 0.03, 0.005: times 3, (kept up), 2 and 4; the fourth is held up by the third."""
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.9, 0.8, 0.7])).tolist() == [1.0, 1.0, 1.0]


def test_sign_flips_are_scipys_permutation_test():
    values = noise(9, 6) + np.array([0, 0, 0.5, 1, -1, 2])
    found = stats.permutation_test(
        (values,), lambda x, axis: x.mean(axis=axis), permutation_type="samples", vectorized=True, n_resamples=np.inf
    )
    np.testing.assert_allclose(p_values(values, correction="none"), found.pvalue, atol=1e-12)
    expected = stats.false_discovery_control(found.pvalue)
    np.testing.assert_allclose(p_values(values, correction="bh"), expected, atol=1e-12)
    np.testing.assert_allclose(p_values(values, correction="holm"), holm(found.pvalue), atol=1e-12)


def test_max_is_the_share_of_flips_whose_largest_statistic_reaches_the_head():
    values = noise(6, 5, seed=1) + np.array([0, 0, 0.5, 1, -2])
    largest = []
    for signs in product([1, -1], repeat=6):
        t = stats.ttest_1samp(values * np.array(signs)[:, None], 0).statistic
        largest.append(np.abs(t).max())
    seen = np.abs(stats.ttest_1samp(values, 0).statistic)
    expected = [np.mean(np.array(largest) >= t - 1e-9) for t in seen]
    np.testing.assert_allclose(p_values(values, correction="max"), expected)


def test_random_flips_agree_with_all_of_them():
    """Within four standard deviations of a share of 4,000 draws."""
    values = noise(14, 8, seed=2) + np.linspace(0, 1, 8)
    for correction in ("none", "max"):
        exact = p_values(values, correction=correction)
        drawn = p_values(values, correction=correction, resamples=4_000)
        assert (np.abs(drawn - exact) <= 4 * np.sqrt(exact * (1 - exact) / 4_000) + 1 / 4_000).all()
        assert not np.array_equal(drawn, exact)


def test_a_head_that_does_nothing_has_p_one():
    values = np.concatenate([np.zeros((8, 1)), np.ones((8, 1))], 1)
    assert p_values(values, correction="none").tolist() == [1.0, 2 / 2**8]


def test_p_values_reject_as_often_as_they_say_where_there_is_no_effect():
    """4,000 tests of 10 numbers; all 512 flips, so p <= 26/512 has exactly that chance. One failure in ten thousand seeds."""
    low, high = stats.binom.interval(0.9999, 4_000, 26 / 512)
    assert low <= (p_values(noise(10, 4_000, seed=3), correction="none") <= 26 / 512 + 1e-9).sum() <= high


@pytest.mark.parametrize("correction", ["holm", "max", "bh"])
def test_families_without_effect_are_rejected_as_seldom_as_they_say(correction):
    """400 families of 20 tests that share much of their noise; without any effect, all three bound any rejection's chance."""
    families = 0
    for seed in range(400):
        values = noise(12, 20, seed=seed) + noise(12, 1, seed=1000 + seed)
        families += p_values(values, correction=correction).min() <= 0.05
    low, high = stats.binom.interval(0.9999, 400, 0.05)
    assert families <= high
    assert correction != "max" or families >= low  # the largest statistic knows what tests share, so it is not conservative


def test_strong_effects_are_found_among_many():
    values = noise(20, 300, seed=5)
    values[:, :3] += 3
    for correction in ("holm", "max", "bh"):
        found = np.flatnonzero(p_values(values, correction=correction) <= 0.01)
        assert {0, 1, 2} <= set(found)
        assert len(found) <= 5


@pytest.mark.parametrize("correction", ["holm", "max", "bh", "none"])
@pytest.mark.parametrize(("samples", "tests"), [(5, 1), (6, 30), (25, 3)])
def test_least_p_is_reached_and_not_undercut(correction, samples, tests):
    values = noise(samples, tests, seed=6) * (correction not in ("bh", "none"))
    values[:, 0 if correction in ("holm", "max") else slice(None)] = 1.0
    assert p_values(values, correction=correction).min() == pytest.approx(least_p(samples, tests, correction))
