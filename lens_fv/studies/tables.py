"""Tables, contrasts and curves: what a page says, computed from the columns of the rows in one place.

A unit's value is the mean of its rows, whatever seeds and items they come from. Estimates are means over units, with
bootstrap intervals over units: what another set of relations, tasks or entities would give.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from plotly.graph_objects import Figure

from lens_fv.core.statistics import Estimate, estimate
from lens_fv.plotting import plot_interval_dots

Verdict = Literal["holds", "does not show", "the opposite holds"]
Estimates = dict[str, dict[str, Estimate]]
"""Estimates by row and column of a table."""
PAIRED = ("seed", "job", "item")
"""Columns that identify a pair of values besides the unit."""
LIMITS = (-0.02, 1.02)
"""Ends of an axis of accuracy, with room for the dots."""


@dataclass(frozen=True)
class View:
    """Some rows, and the tables and figures that a page makes from them. Values that were not measured do not count.

    Attributes:
        frame: The rows, as a table with the columns of `rows.COLUMNS` and those that a study derives.
    """

    frame: Any

    def __len__(self) -> int:
        return len(self.frame)

    def where(self, **where: Any) -> "View":
        """The measured rows whose columns have these values; a collection means any of its values."""
        matching = self.frame["value"].notna()
        for column, value in where.items():
            is_collection = isinstance(value, Collection) and not isinstance(value, str)
            matching &= self.frame[column].isin(list(value) if is_collection else [value])
        return View(self.frame.loc[matching])

    def with_all(self, column: str) -> "View":
        """Every row twice: with "all" in a column, and as it is."""
        import pandas as pd

        return View(pd.concat([self.frame.assign(**{column: "all"}), self.frame]))

    def unique(self, column: str) -> list[Any]:
        """The values of a column, in the order in which they first occur."""
        return list(self.frame[column].unique())

    def values(self, columns: str | list[str]) -> dict[Any, list[float]]:
        """The values of each group of rows, in the order in which groups first occur."""
        return {key: values.tolist() for key, values in self.frame.groupby(columns, sort=False)["value"]}

    def means(self, over: str = "unit") -> dict[str, float]:
        """Mean value of each unit, in the order in which units first occur."""
        means = self.frame.groupby(over, sort=False)["value"].mean()
        return {str(unit): float(value) for unit, value in means.items()}

    def mean(self, over: str = "unit") -> Estimate | None:
        """The mean over units; None without rows."""
        means = list(self.means(over).values())
        return estimate(means) if means else None

    def estimates(self, down: str = "condition", across: str = "measure") -> Estimates:
        """Means over units by the values of two columns, in the order in which they first occur."""
        table = Estimates()
        for (row, column), group in self.where().frame.groupby([down, across], sort=False):
            table.setdefault(str(row), {})[str(column)] = estimate(list(View(group).means().values()))
        return table

    def curve(
        self, line: str = "condition", x: str = "item", words: Mapping[str, str] | None = None
    ) -> dict[str, dict[float, Estimate]]:
        """Means over units along a column of numbers, by the values of another one, for `plot_interval_lines`."""
        lines: dict[str, dict[float, Estimate]] = {}
        for name, row in self.estimates(line, x).items():
            points = {float(position): value for position, value in row.items()}
            lines[label(name, words or {})] = dict(sorted(points.items()))
        return lines

    def difference(
        self, of: str, minus: str, *, paired: Sequence[str] = PAIRED, times: float = 1.0, margin: float = 0.0
    ) -> Estimate | None:
        """Mean difference of two conditions over units, from the rows that both have; None without any. See `Contrast`."""
        keys = ["unit", *paired]
        first, second = (self.where(condition=name).frame[[*keys, "value"]] for name in (of, minus))
        pairs = first.merge(second, on=keys, suffixes=("", "_minus"), validate="one_to_one")  # in the order of the first
        return View(pairs.assign(value=times * pairs["value"] - pairs["value_minus"] + margin)).mean()

    def differences(self, compared: Iterable[str], across: str, paired: Sequence[str] = PAIRED) -> Estimates:
        """Differences of pairs of conditions, each named "one - other", by the values of a column; no rows without any."""
        table = Estimates()
        for pair in compared:
            of, minus = pair.split(" - ")
            for value, own in self.frame.groupby(across, sort=False):
                if difference := View(own).difference(of, minus, paired=paired):
                    table.setdefault(pair, {})[str(value)] = difference
        return table

    def contrast(self, contrast: "Contrast", across: str) -> dict[str, Estimate]:
        """A contrast by the values of a column, where it was measured."""
        cells = {str(value): contrast.estimate(View(own)) for value, own in self.frame.groupby(across, sort=False)}
        return {value: cell for value, cell in cells.items() if cell is not None}

    def csv(self, index: Sequence[str], columns: str) -> Any:
        """Means by the columns `index`, with one column for each value of `columns`."""
        return self.frame.pivot_table(index=list(index), columns=columns, values="value", sort=False).reset_index()

    def dots(
        self, title: str, series: str, categories: str, words: Mapping[str, str], *, panels: str | None = None, axis: str = ""
    ) -> Figure:
        """Estimates by the values of two or three columns, with names in words."""

        def table(own: View) -> Estimates:
            cells = own.estimates(series, categories)
            return {label(s, words): {label(c, words): cell for c, cell in row.items()} for s, row in cells.items()}

        views = {"": self} if panels is None else {value: self.where(**{panels: value}) for value in self.unique(panels)}
        tables = {label(name, words): table(own) for name, own in views.items()}
        return plot_interval_dots(tables, title=title, axis=axis, limits=LIMITS if "accuracy" in axis else None)


@dataclass(frozen=True)
class Contrast:
    """A claim, as a paired difference that should be above 0.

    Attributes:
        of, minus: Conditions.
        measure: Name of the measure.
        part: Part of the study.
        claim: The claim in words.
        where: Values that other columns must have, as for `View.where`.
        paired: Columns that identify a pair besides the unit.
        times: Factor of the values of `of`: with 0.5, half of them should exceed those of `minus`.
        margin: Added to the differences: with 0.02, `of` should be less than 0.02 below `minus` (non-inferiority).
    """

    of: str
    minus: str
    measure: str
    part: str
    claim: str = ""
    where: Mapping[str, Any] = field(default_factory=dict)
    paired: Sequence[str] = PAIRED
    times: float = 1.0
    margin: float = 0.0

    def estimate(self, rows: View) -> Estimate | None:
        """The mean difference over units; None if the conditions share no unit."""
        measured = rows.where(part=self.part, measure=self.measure, **self.where)
        return measured.difference(self.of, self.minus, paired=self.paired, times=self.times, margin=self.margin)


def pairs(of: str | Iterable[str], minus: str | Iterable[str]) -> list[str]:
    """Names of pairs of conditions, "one - other", without those of a condition and itself."""
    ofs, minuses = ([names] if isinstance(names, str) else list(names) for names in (of, minus))
    return [f"{first} - {second}" for first in ofs for second in minuses if first != second]


def label(name: str, words: Mapping[str, str]) -> str:
    """A name in words, and each part of "one - other", "model: measure" and "condition, variant"."""
    return "".join(words.get(part, part) for part in re.split("( - |: |, )", name))


def verdict(difference: Estimate) -> Verdict:
    """Whether a difference that should be above 0 is, by its whole interval; a single unit shows nothing."""
    _, low, high, n = difference
    if n == 1 or low <= 0 <= high:
        return "does not show"
    return "holds" if low > 0 else "the opposite holds"
