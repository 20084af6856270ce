"""What commands print: one JSON object, or tables and lines."""

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lens_fv.cli.leaving import write_out
from lens_fv.core.files import write_atomically


class Printout:
    """The result of a command.

    Attributes:
        payload: JSON object.
        views: What is printed without `--json`: text, or tables of Rich.
        code: Exit code.
    """

    def __init__(self, payload: Mapping[str, Any], *views: Any, code: int = 0) -> None:
        self.payload, self.views, self.code = payload, views, code


def print_out(result: Printout, *, as_json: bool, out: Path | None) -> int:
    """Print a command's result, write its JSON object to `out` if given, and return the exit code."""
    from rich.console import Console

    console = Console(markup=False, highlight=False, emoji=False)
    if out is not None:
        write_json(out, result.payload)
    if as_json:
        write_out(json.dumps(without_nan(result.payload), ensure_ascii=not console.encoding.startswith("utf")) + "\n")
        return result.code
    with console.capture() as text:
        for view in result.views:
            console.print(view)
    write_out(text.get())
    return result.code


def write_json(path: Path, payload: Mapping[str, Any]) -> None:
    """Write a JSON object to a file."""
    write_atomically(path, json.dumps(without_nan(payload), ensure_ascii=False) + "\n")


def without_nan(value: Any) -> Any:
    """Replace NaN, which JSON does not have, by None."""
    if isinstance(value, Mapping):
        return {key: without_nan(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inside) for inside in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def rows_of(records: Iterable[Any]) -> list[dict[str, Any]]:
    """Rows of plain values; see `table_rows`."""
    from lens_fv.core.tables import table_rows

    return table_rows(records)


def table(rows: Sequence[Mapping[str, Any]], *, title: str | None = None, without: Collection[str] = ()) -> Any:
    """Make a table of rows; a value and the ends of its interval share a column.

    Args:
        rows: Rows by column name; a column whose name ends in "low" and the next one are an interval of the one before.
        title: Title above the table.
        without: Columns to leave out.
    """
    from rich.table import Table

    view = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    groups = _columns([name for name in dict.fromkeys(name for row in rows for name in row) if name not in without])
    for name, *interval in groups:
        view.add_column(name.replace("_", " ") + " (95 %)" * bool(interval), overflow="fold")
    for row in rows:
        view.add_row(*(_cell(*(row.get(name) for name in names)) for names in groups))
    return view


def _columns(names: Sequence[str]) -> list[list[str]]:
    """Group each column with the two of its interval, if it has one."""
    groups: list[list[str]] = []
    for name in names:
        if groups and name.endswith(("low", "high")):
            groups[-1].append(name)
        else:
            groups.append([name])
    return groups


def _cell(value: Any, low: Any = None, high: Any = None) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):  # an estimate
        return _cell(*list(value.values())[:3])
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return text if low is None else f"{text} [{low:.3g}, {high:.3g}]"
