"""Rendering of a study's page: a jinja2 template in Markdown, with figures and tables (CSV) in a folder next to the page."""

import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

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
Form = str | Callable[[Estimate], str]
"""How an estimate is written: a format specification such as "+.1f", or a function such as `points`."""
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
    formats = {
        "interval": interval,
        "signed": signed,
        "points": points,
        "percent": percent,
        "number": number,
        "p_value": p_value,
        "verdict": verdict_in_words,
        "setting": in_words,
    }
    environment.filters.update(formats)
    environment.globals.update(formats, table=markdown_table, grid=estimates_table, figure=page.figure, csv=page.csv)
    environment.globals.update(
        label=label, formatted=formatted, folded=folded, command=command, settings=settings_table, jobs=jobs_table
    )
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
        usual = signed if any(" - " in part for part in names) else interval
        row: list[object] = [label(part, words) for part in names]
        for column, heading in shown.items():
            own = points if "(points)" in column else usual
            own = form or own if isinstance(heading, str) else heading[1]
            value = cells[name].get(column)
            row.append(formatted(value, own) if isinstance(value, Estimate) else value)
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


def settings_table(study: type[Study[Any]], runs: Sequence[Results]) -> str:
    """Revision, settings, weights and versions of each run."""
    rows: list[list[object]] = [["revision", *(run.run.get("revision") for run in runs)]]
    for name in runs[0].settings:
        if name not in study.hidden:
            rows.append([name, *(in_words(run.settings.get(name)) for run in runs)])
    rows.append(["weights", *(run.run.get("weights") for run in runs)])
    for package in runs[0].run.get("versions", {}):
        rows.append([package, *(run.run["versions"].get(package) for run in runs)])
    return markdown_table(["setting", *(run.name for run in runs)], rows, words=1 + len(runs))


def jobs_table(study: type[Study[Any]], runs: Sequence[Results]) -> str:
    """Number of finished jobs of each part and run."""
    counts = {part: {run.name: run.part(part).groupby(["seed", "job"]).ngroups or None for run in runs} for part in study.parts}
    return estimates_table("part", counts)


def label(name: str, words: Mapping[str, str]) -> str:
    """A name in words, and each part of "one - other", "model: measure" and "condition, variant"."""
    return "".join(words.get(part, part) for part in re.split("( - |: |, )", name))


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
