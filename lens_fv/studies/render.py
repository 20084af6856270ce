"""Rendering of a study's page: a jinja2 template in Markdown, with figures and tables (CSV) in a folder next to the page."""

import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.graph_objects import Figure

from lens_fv.core.files import write_atomically
from lens_fv.core.statistics import Estimate
from lens_fv.errors import LensFVError
from lens_fv.plotting import save_figures, theme
from lens_fv.studies.study import Results, Study
from lens_fv.studies.tables import verdict

if TYPE_CHECKING:
    import pandas as pd

NONE = "–"
MANY = 20
"""A setting with more names than this is given as their number."""
Form = Callable[[Any], str]
"""How an estimate is written: `interval`, `points` or `said_verdict`."""
LARGEST = 1_000_000
"""Maximum size of an SVG figure in bytes; a larger one is kept as PNG."""


def write_page(study: type[Study[Any]], folders: Mapping[str, Path], out: Path) -> Path:
    """Write a study's page OUT/NAME.md from the rows that are there, with figures and tables (CSV) in OUT/NAME.

    Figures are SVG, or PNG where that is too large; without kaleido and Chrome they are HTML.

    Args:
        study: The study.
        folders: Folder of each model's run, by the model's name.
        out: Folder to write to.

    Raises:
        LensFVError: no study in a folder, a damaged file, or a folder that cannot be written to.
    """
    page = Page(study.name, out)
    runs = [Results(folder, name) for name, folder in folders.items()]
    environment = Environment(
        loader=PackageLoader("lens_fv.studies"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        interval=interval,
        points=points,
        percent=percent,
        p_value=p_value,
        verdict=said_verdict,
        setting=in_words,
        number=number,
    )
    tables = {"table": markdown_table, "grid": estimates_table, "columns": columns_table}
    words = {"label": label, "folded": folded, "command": command, "points": points, "verdict": said_verdict}
    environment.globals.update(**tables, **words, figure=page.figure, csv=page.csv)
    with theme("print"):
        text = environment.get_template(f"{study.name}.md.j2").render(study=study, runs=runs, **study.context(runs))
        return page.write(re.sub(r"\n{3,}", "\n\n", text).strip() + "\n")


class Page:
    """The figures and tables that a template places, and the writing of all files."""

    def __init__(self, name: str, out: Path) -> None:
        self._name, self._out = name, out
        self._figures: dict[str, tuple[str, Figure]] = {}
        self._tables: dict[str, str] = {}

    def figure(self, name: str, caption: str, figure: Figure) -> str:
        """Place a figure with its caption (plain text); its file is named NAME."""
        self._figures[name] = caption, figure
        return f"\0{name}\0"

    def csv(self, name: str, rows: "pd.DataFrame") -> str:
        """Write a table of unrounded numbers to NAME.csv, and link to it."""
        self._tables[name] = rows.to_csv(index=False, float_format="%.6g", lineterminator="\n")
        return f"[{name}.csv]({self._name}/{name}.csv)"

    def write(self, text: str) -> Path:
        """Write the page and its files."""
        files = _draw({name: figure for name, (_, figure) in self._figures.items()}, self._out / self._name)
        for name, table in self._tables.items():
            write_atomically(self._out / self._name / f"{name}.csv", table)
        for name, (caption, _) in self._figures.items():
            text = text.replace(f"\0{name}\0", _placed(f"{self._name}/{files[name]}", caption))
        return write_atomically(self._out / f"{self._name}.md", text)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]], *, words: int = 1) -> str:
    """Format a table whose first `words` columns hold words; all others hold numbers, aligned right."""
    rule = ["---" if i < words else "---:" for i in range(len(header))]
    lines = [header, rule, *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def estimates_table(
    title: str,
    estimates: Mapping[str, Mapping[str, Estimate | None]],
    *,
    words: Mapping[str, str] | None = None,
    form: Literal["signed", "points"] | None = None,
    counts: str | None = None,
) -> str:
    """Format a table of estimates by row and column, such as `Table.estimates` returns.

    Args:
        title: Header of the first column.
        estimates: Estimates by row and column; a row may lack columns.
        words: Names of rows and columns in words; see `label`. Rows named there come first, in this order.
        form: Format of all cells. Rows named "one - other" are always signed, and columns named "... (points)" hold points.
        counts: Title of a first row with the number of units of each column; default: no such row.
    """
    columns = list(dict.fromkeys(column for cells in estimates.values() for column in cells))
    rows, number_of = list[list[str]](), list[str]()
    if counts:
        for column in columns:
            units = {cell[3] for cells in estimates.values() if (cell := cells.get(column))}
            number_of.append("–".join(str(n) for n in sorted({min(units), max(units)})) if units else NONE)
        rows.append([counts, *number_of])
    order = {name: i for i, name in enumerate(words or {})}
    for name in sorted(estimates, key=lambda name: order.get(name, len(order))):
        cells, signed = estimates[name], form == "signed" or " - " in name
        rows.append([label(name, words or {})])
        for column in columns:
            in_points = form == "points" or "(points)" in column
            rows[-1].append(points(cells.get(column)) if in_points else interval(cells.get(column), signed=signed))
    return markdown_table([title, *(label(column, words or {}) for column in columns)], rows)


def label(name: str, words: Mapping[str, str]) -> str:
    """A name in words, and each part of "one - other", "model: measure" and "condition, variant"."""
    return "".join(words.get(part, part) for part in re.split("( - |: |, )", name))


def columns_table(
    first: str,
    table: Mapping[str, Mapping[str, Any]],
    columns: Mapping[str, str | tuple[str, Form]],
    form: Form | None = None,
) -> str:
    """Format a table of estimates, numbers and words.

    Args:
        first: Title of the first column, which holds the names of the rows.
        table: Values by row and column; a row may lack columns.
        columns: Title of each column to show, or its title and format.
        form: Format of estimates in all other columns; default: `interval`.
    """
    titles = [column if isinstance(column, str) else column[0] for column in columns.values()]
    forms = [form or interval if isinstance(column, str) else column[1] for column in columns.values()]
    rows: list[list[object]] = []
    for name, row in table.items():
        values = [row.get(column) for column in columns]
        rows.append([name, *(own(value) if isinstance(value, Estimate) else value for own, value in zip(forms, values))])
    return markdown_table([first, *titles], rows)


def folded(title: str, inside: str) -> str:
    """A long text that a click on its title opens. The blank lines make MkDocs and GitHub read it as Markdown."""
    return f'<details markdown="1">\n<summary>{title}</summary>\n\n{inside}\n\n</details>'


def interval(value: Estimate | None, digits: int = 2, signed: bool = False, times: float = 1.0) -> str:
    """A mean with its interval, the latter only if it covers several units."""
    if value is None:
        return NONE
    form = f"{'+' if signed else ''}.{digits}f"
    mean, low, high, n = value
    ends = "" if n == 1 else f" [{times * low:{form}}, {times * high:{form}}]"
    return f"{times * mean:{form}}{ends}"


def points(difference: Estimate | None) -> str:
    """A difference of proportions in percentage points."""
    return interval(difference, 0, signed=True, times=100.0)


def percent(share: float | None) -> str:
    """A proportion in percent."""
    return NONE if share is None else f"{100 * share:.0f} %"


def number(value: float | None, digits: int = 2, signed: bool = False) -> str:
    """A number with a fixed number of digits."""
    return NONE if value is None else f"{value:{'+' if signed else ''}.{digits}f}"


def said_verdict(difference: Estimate) -> str:
    """The verdict of a contrast; failures stand out."""
    found = verdict(difference)
    return found if found == "holds" else f"**{found}**"


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


def command(study: type[Study[Any]], run: Results) -> str:
    """The command that runs the study with a run's settings."""
    usual = json.loads(json.dumps(asdict(study.settings_type())))
    precision = run.run.get("versions", {}).get("matmul")
    words = ["lens-fv", *([f"--matmul {precision}"] if precision else []), f"reproduce {study.name} --model {run.run['model']}"]
    for name, value in run.settings.items():
        if value != usual.get(name):
            given = "FILE" if name in study.external and value else _written(value)
            words.append(f"--set {shlex.quote(f'{name}={given}')}")
    if (weights := run.run.get("weights", "float32")) != "float32":
        words.append(f"--dtype {weights}")
    return " ".join(words)


def _written(value: Any) -> str:
    """A setting as `--set` takes it: texts and lists of texts or numbers as they are, all else as JSON."""
    if isinstance(value, list) and value and all(isinstance(item, str | int | float) for item in value):
        return ",".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)


def _draw(figures: Mapping[str, Figure], folder: Path) -> dict[str, str]:
    """Write the figures and return their file names. Only the formats that the page shows are kept."""
    files: dict[str, str] = {}
    with TemporaryDirectory() as temporary:
        drawn = Path(temporary)
        try:
            for figure in figures.values():
                figure.update_layout(paper_bgcolor="white", plot_bgcolor="white")  # readable on any page, dark ones too
            save_figures(figures, drawn, static=True)
            for name in figures:
                svg = drawn / f"{name}.svg"
                kept = svg if svg.stat().st_size <= LARGEST else svg.with_suffix(".png")
                files[name] = write_atomically(folder / kept.name, kept.read_bytes()).name
        except LensFVError:  # no kaleido or Chrome
            for figure in figures.values():
                figure.update_layout(paper_bgcolor=None, plot_bgcolor=None)
            for path in save_figures(figures, drawn):
                if path.suffix == ".html":
                    files[path.stem] = write_atomically(folder / path.name, path.read_bytes()).name
            if files:
                write_atomically(folder / "plotly.min.js", (drawn / "plotly.min.js").read_bytes())
    return files


def _placed(file: str, caption: str) -> str:
    if file.endswith(".html"):
        return f"[Figure: {caption}]({file})"
    return f"![{re.sub(r'[][]', '', caption)}]({file})\n\n*{caption}*"


def _cell(value: object) -> str:
    if value is None:
        return NONE
    return (f"{value:.2f}" if isinstance(value, float) else str(value)).replace("|", "\\|")
