"""Two sets of heads, against drawing them."""

from itertools import combinations, product

import pytest

from lens_fv.errors import LensFVError
from lens_fv.heads import head_overlap

HEADS = list(product(range(2), range(3)))


@pytest.mark.parametrize(
    ("one", "other"), [((0, 1), (1, 2, 3)), ((0, 1), (4, 5)), ((0, 1, 2, 3), (0, 1, 2, 3, 5)), ((2,), (2,))]
)
def test_chance_is_the_mean_over_all_sets(one, other):
    a, b = ({HEADS[i] for i in each} for each in (one, other))
    found = head_overlap(a, b, len(HEADS))
    drawn = [set(each) for each in combinations(HEADS, len(b))]
    assert found.n_shared == len(a & b)
    assert found.jaccard == len(a & b) / len(a | b)
    assert found.expected_jaccard == pytest.approx(sum(len(a & d) / len(a | d) for d in drawn) / len(drawn))
    assert found.expected_shared == pytest.approx(sum(len(a & d) for d in drawn) / len(drawn))
    assert found.p_value == pytest.approx(sum(len(a & d) >= len(a & b) for d in drawn) / len(drawn))


def test_no_heads_and_too_many():
    for one, other in ((set(), {(0, 0)}), ({(0, i) for i in range(7)}, {(0, 0)})):
        with pytest.raises(LensFVError, match="of 6 heads: give 1 to 6 in each set"):
            head_overlap(one, other, 6)
