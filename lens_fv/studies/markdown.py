"""Markdown tables, and how a page writes estimates, numbers and settings."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lens_fv.core.statistics import Estimate
from lens_fv.studies.tables import label, verdict

NONE = "–"
MANY = 20
"""A setting with more names than this is written as their number."""
Form = str | Callable[[Estimate], str]
"""How an estimate is written: a format specification such as "+.1f", or a function such as `points`."""


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]], *, words: int = 1) -> str:
    """Format a table whose first `words` columns hold words; all others hold numbers, aligned right."""
    rule = ["---" if i < words else "---:" for i in range(len(header))]
    lines = [header, rule, *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def estimates_table(
    title: str | Sequence[str],
    cells: Mapping[Any, Mapping[str, Any]],
    columns: Mapping[str, str | tuple[str, Form]] | None = None,
    *,
    words: Mapping[str, str] | None = None,
    form: Form | None = None,
    counts: str | None = None,
) -> str:
    """Format a table of estimates, numbers and words by row and column, such as `Table.estimates` returns.

    Args:
        title: Header of the first column, or headers of the first columns if the names of rows are tuples.
        cells: Values by row and column; a row may lack columns.
        columns: Title of each column to show, or its title and the format of its estimates; default: all columns.
        words: Names of rows and columns in words; see `label`. Rows named there come first, in this order.
        form: Format of estimates in all other columns. Default: `interval`, signed in rows named "one - other", and `points` in
            columns named "... (points)".
        counts: Title of a first row with the number of units of each column; default: no such row.
    """
    words = words or {}
    shown = columns or {name: label(name, words) for row in cells.values() for name in row}
    headers = [title] if isinstance(title, str) else [*title]
    rows: list[list[object]] = [[counts, *(_count(cells, name) for name in shown)]] if counts else []
    order = {name: i for i, name in enumerate(words)}
    for name in sorted(cells, key=lambda name: order.get(name, len(order))):
        names = [name] if isinstance(name, str) else [str(part) for part in name]
        is_difference = any(" - " in part for part in names)
        row: list[object] = [label(part, words) for part in names]
        for column, heading in shown.items():
            usual = points if "(points)" in column else signed if is_difference else interval
            cell_form = form or usual if isinstance(heading, str) else heading[1]
            value = cells[name].get(column)
            row.append(formatted(value, cell_form) if isinstance(value, Estimate) else value)
        rows.append(row)
    titles = [heading if isinstance(heading, str) else heading[0] for heading in shown.values()]
    return markdown_table([*headers, *titles], rows, words=len(headers))


def formatted(value: Estimate, form: Form) -> str:
    """An estimate in a format."""
    return interval(value, form) if isinstance(form, str) else form(value)


def _count(cells: Mapping[Any, Mapping[str, Any]], column: str) -> str:
    """The number of units in a column, or the smallest and the largest."""
    units = {row[column].n for row in cells.values() if row.get(column)}
    return "–".join(str(n) for n in sorted({min(units), max(units)})) if units else NONE


def folded(title: str, inside: str) -> str:
    """A long text that a click on its title opens. The blank lines make MkDocs and GitHub read it as Markdown."""
    return f'<details markdown="1">\n<summary>{title}</summary>\n\n{inside}\n\n</details>'


def interval(value: Estimate | None, form: str = ".2f", times: float = 1.0) -> str:
    """A mean with its interval, the latter only if it covers several units."""
    if value is None:
        return NONE
    mean, low, high, n = value
    scaled = Estimate(times * mean, times * low, times * high, n)
    return f"{scaled.mean:{form}}" if n == 1 else f"{scaled:{form}}"


def signed(difference: Estimate | None) -> str:
    """A difference."""
    return interval(difference, "+.2f")


def points(difference: Estimate | None) -> str:
    """A difference of proportions in percentage points."""
    return interval(difference, "+.0f", times=100.0)


def percent(share: float | None) -> str:
    """A proportion in percent."""
    return NONE if share is None else f"{100 * share:.0f} %"


def number(value: float | None, form: str = ".2f") -> str:
    """A number with a fixed number of digits."""
    return NONE if value is None else f"{value:{form}}"


def verdict_in_words(difference: Estimate) -> str:
    """The verdict of a contrast; failures stand out."""
    outcome = verdict(difference)
    return outcome if outcome == "holds" else f"**{outcome}**"


def p_value(p: float) -> str:
    """A p-value with three digits."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def in_words(value: Any) -> Any:
    """A setting in few words."""
    if isinstance(value, dict):
        return "; ".join(f"{key}: {in_words(inner)}" for key, inner in value.items() if not isinstance(inner, dict))
    if isinstance(value, list):
        return f"{len(value)} names" if len(value) > MANY and isinstance(value[0], str) else ", ".join(map(str, value))
    return value


def _cell(value: object) -> str:
    if value is None:
        return NONE
    return (f"{value:.2f}" if isinstance(value, float) else str(value)).replace("|", "\\|")
