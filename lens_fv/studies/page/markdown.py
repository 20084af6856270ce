"""Pieces of a page in Markdown, as MkDocs and GitHub read it."""

import csv
import io
from collections.abc import Sequence
from typing import NamedTuple

from plotly.graph_objects import Figure

from lens_fv.core.statistics import Estimate

NONE = "–"


class Picture(NamedTuple):
    """A figure on the page.

    Attributes:
        name: file name without its ending.
        caption: plain text.
        figure: what is drawn.
    """

    name: str
    caption: str
    figure: Figure


class Sheet(NamedTuple):
    """A table in a file of its own, with unrounded numbers.

    Attributes:
        name: file name without its ending.
        header: column names.
        rows: values.
    """

    name: str
    header: Sequence[str]
    rows: Sequence[Sequence[object]]

    def csv(self) -> str:
        """As comma-separated values."""
        text = io.StringIO()
        short = [[f"{x:.6g}" if isinstance(x, float) else x for x in row] for row in self.rows]
        csv.writer(text, lineterminator="\n").writerows([self.header, *short])
        return text.getvalue()


Block = str | Picture | Sheet


def table(header: Sequence[str], rows: Sequence[Sequence[object]], *, words: int = 1) -> str:
    """Format a table whose first `words` columns hold words; all others hold numbers, aligned right."""
    rule = ["---" if i < words else "---:" for i in range(len(header))]
    lines = [header, rule, *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def folded(title: str, inside: str) -> str:
    """A long text that a click on its title opens. The blank lines make MkDocs and GitHub read it as Markdown."""
    return f'<details markdown="1">\n<summary>{title}</summary>\n\n{inside}\n\n</details>'


def interval(found: Estimate | None, *, digits: int = 2, signed: bool = False) -> str:
    """A mean with its interval, if it is of more than one value."""
    if found is None:
        return NONE
    form = f"{'+' if signed else ''}.{digits}f"
    if found.n == 1:
        return f"{found.mean:{form}}"
    return f"{found:{form}}"


def points(found: Estimate | None) -> str:
    """A difference of shares, in percentage points."""
    if found is None:
        return NONE
    return interval(Estimate(100 * found.mean, 100 * found.ci_low, 100 * found.ci_high, found.n), digits=0, signed=True)


def verdict(found: Estimate) -> str:
    """Whether a difference that should be above 0 is, by its whole interval; one value alone shows nothing."""
    if found.n == 1 or found.ci_low <= 0 <= found.ci_high:
        return "**does not show**"
    return "holds" if found.ci_low > 0 else "**the opposite holds**"


def p_value(p: float) -> str:
    """As few digits as say something."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _cell(value: object) -> str:
    if value is None:
        return NONE
    return (f"{value:.2f}" if isinstance(value, float) else str(value)).replace("|", "\\|")
