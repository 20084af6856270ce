"""The estimate: a number with its confidence interval. Without arithmetic, so that the command line can import it at once."""

from typing import NamedTuple


class Estimate(NamedTuple):
    """An estimate with its confidence interval.

    Attributes:
        mean: The estimate: a mean, a proportion or a correlation.
        ci_low, ci_high: Ends of its interval.
        n: Number of independent values that it is computed from.

    Example:
        >>> share = lens_fv.evaluation.proportion(8, 10)
        >>> share
        Estimate(0.8 [0.49, 0.943], n=10)
        >>> print(share)
        0.80 [0.49, 0.94]
        >>> f"{share:.0%}"
        '80% [49%, 94%]'
    """

    mean: float
    ci_low: float
    ci_high: float
    n: int

    def __format__(self, spec: str) -> str:
        """Mean and interval, each formatted as `spec`; default: two decimals."""
        mean, low, high = (format(value, spec or ".2f") for value in self[:3])
        return f"{mean} [{low}, {high}]"

    def __str__(self) -> str:
        return format(self)

    def __repr__(self) -> str:
        return f"Estimate({self:.3g}, n={self.n})"
