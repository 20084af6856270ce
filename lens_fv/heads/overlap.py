"""Are two sets of heads more alike than two drawn at random?"""

from collections.abc import Collection
from typing import Any, NamedTuple

from scipy.stats import hypergeom

from lens_fv.core.choices import Count, checked
from lens_fv.errors import LensFVError


class Overlap(NamedTuple):
    """How much two sets of heads have in common.

    Attributes:
        common: heads that are in both.
        jaccard: their share of the heads that are in either.
        chance: what that is on average for sets of these sizes drawn at random.
        p: probability that such sets have as many heads in common, or more (hypergeometric).
    """

    common: int
    jaccard: float
    chance: float
    p: float


@checked
def head_overlap(one: Collection[tuple[int, int]], other: Collection[tuple[int, int]], n: Count) -> Overlap:
    """Jaccard index of two sets of heads, beside its chance level.

    Args:
        one: (layer, head), each once.
        other: likewise.
        n: heads that there are to choose from.

    Raises:
        LensFVError: an empty set, or more heads than there are.
    """
    first, second = set(one), set(other)
    if not first or not second or max(len(first), len(second)) > n:
        raise LensFVError(f"overlap of {len(first)} and {len(second)} of {n} heads: give 1 to {n} in each set")
    sizes, common = len(first) + len(second), len(first & second)
    drawn: Any = hypergeom(n, len(first), len(second))
    # Two sets that together are more than all have some in common whatever they are.
    possible = range(max(0, sizes - n), min(len(first), len(second)) + 1)
    chance = sum(float(drawn.pmf(k)) * k / (sizes - k) for k in possible)
    return Overlap(common, common / (sizes - common), chance, float(drawn.sf(common - 1)))
