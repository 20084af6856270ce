"""Split-half reliability where its value is known."""

import numpy as np
import pytest
from scipy import stats

from lens_fv.errors import LensFVError
from lens_fv.heads.statistics import split_half


def made(samples: int, tests: int, *, signal: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return signal * rng.standard_normal(tests) + rng.standard_normal((samples, tests))


def test_noise_has_none():
    """Halves without signal are independent: each split has mean 0 and variance 1/(tests - 1), tops agree by chance."""
    n, tests, k = 60, 101, 10
    found = [split_half(made(8, tests, signal=0, seed=s), k=k, n_splits=1, seed=s) for s in range(n)]
    assert abs(np.mean([f.spearman for f in found])) <= 4 / np.sqrt(n * (tests - 1))
    chance = stats.hypergeom(tests, k, k)
    assert found[0].chance == pytest.approx(chance.mean() / k)
    assert abs(np.mean([f.overlap for f in found]) - chance.mean() / k) <= 4 * chance.std() / k / np.sqrt(n)


def test_a_strong_signal_has_nearly_all():
    found = split_half(made(20, 200, signal=20), k=10)
    assert found.spearman > 0.99
    assert found.spearman_brown > found.spearman
    assert found.overlap > 0.9


def test_value_is_the_closed_form():
    """Normal heads, normal noise: the halves' correlation is s2 / (s2 + 1 / half), the whole's s2 / (s2 + 1 / n).

    A rank correlation is 6 / pi asin(r / 2) of the plain one. The tolerance is four standard errors at 4,000 heads.
    """
    signal, n, tests = 0.3, 16, 4_000
    found = split_half(made(n, tests, signal=signal, seed=1), n_splits=50)
    half = signal**2 / (signal**2 + 2 / n)
    assert found.spearman == pytest.approx(6 / np.pi * np.arcsin(half / 2), abs=4 / np.sqrt(tests))
    assert found.spearman_brown == pytest.approx(2 * found.spearman / (1 + found.spearman))
    assert found.spearman_brown == pytest.approx(signal**2 / (signal**2 + 1 / n), abs=4 / np.sqrt(tests) + 0.02)


def test_one_split_by_hand():
    values = np.array([[3.0, 2.0, 1.0, 0.0], [3.0, 2.0, 1.0, 0.0], [0.0, 2.0, 1.0, 3.0], [0.0, 2.0, 1.0, 3.0]])
    found = {round(split_half(values, k=1, n_splits=1, seed=s).spearman, 6) for s in range(20)}
    # Either each half has one row of both kinds (its mean: 1.5, 2, 1, 1.5), or the halves are the two kinds.
    assert found == {1.0, round(stats.spearmanr(values[0], values[2]).statistic, 6)}


@pytest.mark.parametrize(("samples", "k", "said"), [(3, 1, "at least 4"), (8, 0, "top 0"), (8, 6, "1 to 5")])
def test_bad_requests(samples, k, said):
    with pytest.raises(LensFVError, match=said):
        split_half(np.ones((samples, 5)), k=k)
