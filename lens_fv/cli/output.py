"""What commands print: one JSON object, or tables and lines."""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from lens_fv.cli.leaving import write_out
from lens_fv.core.estimate import Estimate
from lens_fv.core.files import file_name, write_atomically

if TYPE_CHECKING:
    from lens_fv.core.artefact import Artefact


class Printout:
    """The result of a command.

    Attributes:
        payload: JSON object.
        views: What is printed without `--json`: text, or tables of Rich.
        code: Exit code.
    """

    def __init__(self, payload: Mapping[str, Any], *views: Any, code: int = 0) -> None:
        self.payload, self.views, self.code = payload, views, code


def artefact_printout(artefact: "Artefact", *views: Any, out: Path | None = None, ending: str = "", **values: Any) -> Printout:
    """Save an artefact and describe it, with the model, the task, the file and, if not all were used, the queries.

    Args:
        artefact: Artefact to describe.
        views: What is printed; default: the artefact's summary.
        out: File to write; default: TASK-ENDING.safetensors, or none if there is no ending.
        ending: End of the default file's name.
        values: Further values of the JSON object.
    """
    provenance = artefact.provenance
    if out is None and ending:
        out = Path(f"{file_name(provenance.task)}-{ending}.safetensors")
    file = None if out is None else str(artefact.save(out))
    options, notes = provenance.options, [f"written to {file}"] if file else []
    if "n_queries" in options:
        notes.insert(0, f"{options['n_queries']} of {options['n_items']} queries: those that the model answers")
    payload = {"model": provenance.model, "task": provenance.task, **values, "file": file}
    return Printout(payload, *(views or [repr(artefact)]), *notes)


def queries_used(artefact: "Artefact") -> dict[str, Any]:
    """Which queries an artefact was made with and, if not all, how many of how many."""
    options = artefact.provenance.options
    counts = {name: options[name] for name in ("n_queries", "n_items") if name in options}
    return {"selection": options.get("queries", "all"), **counts}


def print_out(result: Printout, *, as_json: bool, out: Path | None) -> int:
    """Print a command's result, write its JSON object to `out` if given, and return the exit code."""
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:  # another program reads lines, which must not be broken
        console = Console(markup=False, highlight=False, emoji=False, width=10_000)
    if out is not None:
        write_json(out, result.payload)
    if as_json:
        write_out(json.dumps(json_value(result.payload), ensure_ascii=not console.encoding.startswith("utf")) + "\n")
        return result.code
    with console.capture() as text:
        for view in result.views:
            console.print(view)
    write_out(text.get())
    return result.code


def write_json(path: Path, payload: Mapping[str, Any]) -> None:
    """Write a JSON object to a file."""
    write_atomically(path, json.dumps(json_value(payload), ensure_ascii=False) + "\n")


def json_value(value: Any) -> Any:
    """A value for JSON: results by the names of their fields, paths as texts, and None for NaN, which JSON does not have."""
    if hasattr(value, "to_json"):
        value = value.to_json()
    elif is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    elif hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {key: json_value(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(inside) for inside in value]
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and math.isnan(value) else value


def table(rows: Sequence[Mapping[str, Any]], *, title: str | None = None, without: Collection[str] = ()) -> Table:
    """Make a table of rows; a value and the ends of its interval share a column.

    Args:
        rows: Rows by column name; a column whose name ends in "low" and the next one are an interval of the one before.
        title: Title above the table.
        without: Columns to leave out.
    """
    view = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    groups = _columns([name for name in dict.fromkeys(name for row in rows for name in row) if name not in without])
    for name, *interval in groups:
        view.add_column(name.replace("_", " ") + " (95 %)" * bool(interval), overflow="fold", no_wrap=not view.columns)
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
    if isinstance(value, Estimate):
        return _cell(*value[:3])
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_cell(inside)}" for name, inside in value.items())
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return text if low is None else f"{text} [{low:.3g}, {high:.3g}]"
