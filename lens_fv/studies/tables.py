"""Tables, contrasts and curves: what a page says, declared on the columns of the rows and computed in one place.

A unit's value is the mean of its rows, whatever seeds and items they come from. Estimates are means over units, with
bootstrap intervals over units: what another set of relations, tasks or entities would give.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from lens_fv.core.statistics import Estimate, estimate

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["holds", "does not show", "the opposite holds"]
Where = Mapping[str, Any]


def select(rows: "pd.DataFrame", where: Where) -> "pd.DataFrame":
    """The rows whose columns have these values; a collection means any of its values."""
    matching = rows["value"].notna()
    for column, value in where.items():
        is_collection = isinstance(value, Collection) and not isinstance(value, str)
        matching &= rows[column].isin(list(value) if is_collection else [value])
    return rows.loc[matching]


def values_by(rows: "pd.DataFrame", columns: str | list[str]) -> dict[Any, list[float]]:
    """The values of each group of rows, in the order in which groups first occur."""
    groups: Any = rows.groupby(columns, sort=False)["value"]
    return {key: values.tolist() for key, values in groups}


def unit_means(rows: "pd.DataFrame", *, over: str = "unit") -> dict[str, float]:
    """Mean value of each unit, in the order in which units first occur."""
    means: Any = rows.groupby(over, sort=False)["value"].mean()
    return {str(unit): float(value) for unit, value in means.items()}


def mean(rows: "pd.DataFrame", *, over: str = "unit") -> Estimate | None:
    """The mean over units; None without rows."""
    means = list(unit_means(rows, over=over).values())
    return estimate(means) if means else None


@dataclass(frozen=True)
class Table:
    """Estimates by two columns of the rows.

    Attributes:
        rows: Column whose values stand down the side.
        columns: Column whose values stand across the top.
        where: Values that the other columns must have, as for `select`.
        over: Column of the units that intervals are taken over.
    """

    rows: str = "condition"
    columns: str = "measure"
    where: Where = field(default_factory=dict)
    over: str = "unit"

    def estimates(self, rows: "pd.DataFrame") -> dict[str, dict[str, Estimate]]:
        """Estimates by row and column, in the order in which they first occur."""
        table: dict[str, dict[str, Estimate]] = {}
        for (row, column), group in select(rows, self.where).groupby([self.rows, self.columns], sort=False):
            table.setdefault(str(row), {})[str(column)] = estimate(list(unit_means(group, over=self.over).values()))
        return table


@dataclass(frozen=True)
class Contrast:
    """A claim, as a paired difference that should be above 0.

    Attributes:
        of, minus: Conditions.
        measure: Name of the measure.
        claim: The claim in words.
        part: Part of the study.
        where: Values that other columns must have, as for `select`.
        over: Column of the units that intervals are taken over.
        paired: Columns that identify a pair besides the unit.
        times: Factor of the values of `of`: with 0.5, half of them should exceed those of `minus`.
        margin: Added to the differences: with 0.02, `of` should be less than 0.02 below `minus` (non-inferiority).
    """

    of: str
    minus: str
    measure: str
    part: str
    claim: str = ""
    where: Where = field(default_factory=dict)
    over: str = "unit"
    paired: Sequence[str] = ("seed", "job", "item")
    times: float = 1.0
    margin: float = 0.0

    def differences(self, rows: "pd.DataFrame") -> dict[str, float]:
        """Mean difference of each unit, over the rows that both conditions have."""
        keys = [self.over, *self.paired]
        where = {"part": self.part, "measure": self.measure, **self.where}
        of, minus = (select(rows, {**where, "condition": name})[[*keys, "value"]] for name in (self.of, self.minus))
        pairs = of.merge(minus, on=keys, suffixes=("", "_minus"), validate="one_to_one")  # in the order of `of`
        pairs["value"] = self.times * pairs["value"] - pairs["value_minus"] + self.margin
        return unit_means(pairs, over=self.over)

    def estimate(self, rows: "pd.DataFrame") -> Estimate | None:
        """The mean difference over units; None if the conditions share no unit."""
        differences = list(self.differences(rows).values())
        return estimate(differences) if differences else None


def verdict(difference: Estimate) -> Verdict:
    """Whether a difference that should be above 0 is, by its whole interval; a single unit shows nothing."""
    _, low, high, n = difference
    if n == 1 or low <= 0 <= high:
        return "does not show"
    return "holds" if low > 0 else "the opposite holds"


@dataclass(frozen=True)
class Curve:
    """Estimates along a numeric column, one line for each value of another column.

    Attributes:
        x: Column of the horizontal axis; its values are read as numbers.
        line: Column whose values are the lines.
        where: Values that other columns must have, as for `select`.
        over: Column of the units that intervals are taken over.
    """

    x: str = "item"
    line: str = "condition"
    where: Where = field(default_factory=dict)
    over: str = "unit"

    def estimates(self, rows: "pd.DataFrame") -> dict[str, dict[float, Estimate]]:
        """Estimates by line and position, as `plotting.plot_interval_lines` draws them."""
        lines = Table(self.line, self.x, self.where, self.over).estimates(rows)
        return {
            line: {float(x): value for x, value in sorted(at.items(), key=lambda e: float(e[0]))} for line, at in lines.items()
        }
