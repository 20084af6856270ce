"""Overlap of two sets of heads, compared with chance."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from scipy.stats import hypergeom

from lens_fv.core.choices import Count, checked
from lens_fv.core.results import Record
from lens_fv.errors import LensFVError


@dataclass(frozen=True, repr=False)
class Overlap(Record):
    """Overlap of two sets of heads.

    Attributes:
        common: Number of heads in both sets.
        jaccard: Jaccard index: heads in both, as a fraction of heads in either.
        chance: Expected Jaccard index of random sets of these sizes.
        p_value: Probability that random sets have at least as many heads in common (hypergeometric).
    """

    common: int
    jaccard: float
    chance: float
    p_value: float


@checked
def head_overlap(one: Collection[tuple[int, int]], other: Collection[tuple[int, int]], n: Count) -> Overlap:
    """Jaccard index of two sets of heads, with its chance level.

    Args:
        one: (layer, head) pairs without repetition.
        other: (layer, head) pairs without repetition.
        n: Total number of heads to choose from.

    Raises:
        LensFVError: a set is empty, or has more heads than the total.
    """
    first, second = set(one), set(other)
    if not first or not second or max(len(first), len(second)) > n:
        raise LensFVError(f"overlap of {len(first)} and {len(second)} of {n} heads: give 1 to {n} in each set")
    sizes, common = len(first) + len(second), len(first & second)
    drawn: Any = hypergeom(n, len(first), len(second))
    # Two sets that together exceed the total must overlap.
    possible = range(max(0, sizes - n), min(len(first), len(second)) + 1)
    chance = sum(float(drawn.pmf(k)) * k / (sizes - k) for k in possible)
    return Overlap(common, common / (sizes - common), chance, float(drawn.sf(common - 1)))
