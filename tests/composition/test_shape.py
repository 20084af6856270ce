"""A map's shape, learned from scores alone."""

import pytest
import torch

from lens_fv.composition.shape import LogitMap, ScoredPairs, expected_score, fit_logit_map, scored_pairs

N = 5


def problems(n: int, seed: int) -> ScoredPairs:
    """What explains the second pair is the relation after the one that explains the first; the last one is always left out."""
    rng = torch.Generator().manual_seed(seed)
    which = torch.randint(N - 1, (n,), generator=rng)
    sources, targets = torch.full((n, N), -8.0), torch.full((n, N), -8.0)
    sources += torch.randn(n, N, generator=rng)
    sources[torch.arange(n), which] = -1.0
    targets[torch.arange(n), (which + 1) % (N - 1)] = -1.0
    excluded = torch.zeros(n, N, dtype=torch.bool)
    excluded[:, -1] = True
    return ScoredPairs(sources, targets, excluded)


def test_a_full_matrix_learns_what_a_diagonal_cannot():
    train, test, new = (problems(n, seed) for n, seed in ((300, 0), (50, 1), (100, 2)))
    maps = {form: fit_logit_map(form, train, test, temperature=3.0, steps=300) for form in ("temperature", "diagonal", "full")}
    scores = {form: float(expected_score(shape, new)) for form, shape in maps.items()}
    assert scores["full"] > -2.0  # nearly always right
    assert scores["diagonal"] < -4.5  # it can rule out the first one's own relation, and guess among three
    assert torch.equal(maps["temperature"].matrix, torch.full((1, N), 3.0))
    assert (maps["diagonal"].matrix.shape, maps["full"].matrix.shape) == ((1, N), (N, N))


def test_expected_score_by_hand():
    couples = ScoredPairs(
        torch.tensor([[-1.0, -2.0, 5.0]]), torch.tensor([[-3.0, -4.0, 9.0]]), torch.tensor([[False, False, True]])
    )
    shape = LogitMap(torch.tensor([[2.0, 1.0, 7.0]]), torch.tensor([0.0, 0.5, 1.0]))
    odds = torch.tensor([-2.0, -1.5]).softmax(0)
    assert float(expected_score(shape, couples)) == pytest.approx(float(-3 * odds[0] - 4 * odds[1]))


@pytest.mark.parametrize("form", ["diagonal", "full"])
def test_nothing_better_than_the_start_is_the_start(form):
    """What is to be chosen on wants the start: whatever is learned is worse there."""
    rng = torch.Generator().manual_seed(0)
    sources = torch.randn(200, N, generator=rng)
    nobody = torch.zeros(200, N, dtype=torch.bool)
    train = ScoredPairs(sources, -sources, nobody)
    hard = ScoredPairs(sources, sources * 100, nobody)
    logit_map = fit_logit_map(form, train, hard, temperature=3.0, steps=100)
    matrix = logit_map.matrix if form == "full" else torch.diag(logit_map.matrix[0])
    assert torch.equal(matrix, 3.0 * torch.eye(N))
    assert not logit_map.bias.any()


def test_couples_share_a_relation_and_no_input():
    sources, targets = torch.arange(4.0)[:, None], torch.arange(10.0, 14.0)[:, None]
    excluded = torch.zeros(4, 1, dtype=torch.bool)
    words = [("a", "b"), ("c", "a"), ("e", "f"), ("g", "h")]
    couples = scored_pairs(["x", "x", "y", ""], words, sources, targets, excluded)
    pairs = {(int(s), int(t) - 10) for s, t in zip(couples.sources, couples.targets, strict=True)}
    assert pairs == {(0, 0), (1, 0), (1, 1), (2, 2), (3, 3)}  # 0 with 1 would show "a" and ask for it
