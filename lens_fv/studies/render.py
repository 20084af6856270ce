"""Rendering of a study's page: a jinja2 template in Markdown, with figures and tables (CSV) in a folder next to the page."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.graph_objects import Figure

from lens_fv.core.files import write_atomically
from lens_fv.core.tables import DataFrame
from lens_fv.errors import LensFVError
from lens_fv.plotting import plot_interval_dots, plot_interval_lines, save_figures, theme
from lens_fv.studies import markdown
from lens_fv.studies.study import Results, Study
from lens_fv.studies.tables import label, pairs

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
    rows = study.view(*runs)
    environment = Environment(
        loader=PackageLoader("lens_fv.studies"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    formats = {name: getattr(markdown, name) for name in ("interval", "signed", "points", "percent", "number", "p_value")}
    formats |= {"verdict": markdown.verdict_in_words, "setting": markdown.in_words}
    environment.filters.update(formats)
    environment.globals.update(formats, table=markdown.markdown_table, grid=markdown.estimates_table, label=label, pairs=pairs)
    environment.globals.update(interval_dots=plot_interval_dots, interval_lines=plot_interval_lines)
    environment.globals.update(formatted=markdown.formatted, folded=markdown.folded, figure=page.figure, csv=page.csv)
    environment.globals.update(command=command, settings=settings_table, jobs=jobs_table)
    with theme("print"):
        context = {"study": study, "runs": runs, "rows": rows, **study.context(rows, runs)}
        text = environment.get_template(f"{study.name}.md.j2").render(context)
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

    def csv(self, name: str, rows: DataFrame) -> str:
        """Write a table of unrounded numbers to NAME.csv, and link to it."""
        self._tables[name] = rows.to_csv(index=False, float_format="%.6g", lineterminator="\n")
        return f"[{name}.csv]({self._name}/{name}.csv)"

    def write(self, text: str) -> Path:
        """Write the page and its files."""
        files = _draw({name: figure for name, (_, figure) in self._figures.items()}, self._out / self._name)
        for name, table in self._tables.items():
            write_atomically(self._out / self._name / f"{name}.csv", table)
        for name, (caption, _) in self._figures.items():
            text = text.replace(f"\0{name}\0", _image(f"{self._name}/{files[name]}", caption))
        return write_atomically(self._out / f"{self._name}.md", text)


def settings_table(study: type[Study[Any]], runs: Sequence[Results]) -> str:
    """Revision, settings, weights and versions of each run."""
    rows: list[list[object]] = [["revision", *(run.run.get("revision") for run in runs)]]
    for name in runs[0].settings:
        if name not in study.hidden:
            rows.append([name, *(markdown.in_words(run.settings.get(name)) for run in runs)])
    rows.append(["weights", *(run.run.get("weights") for run in runs)])
    for package in runs[0].run.get("versions", {}):
        rows.append([package, *(run.run["versions"].get(package) for run in runs)])
    return markdown.markdown_table(["setting", *(run.name for run in runs)], rows, words=1 + len(runs))


def jobs_table(study: type[Study[Any]], runs: Sequence[Results]) -> str:
    """Number of finished jobs of each part and run."""
    counts = {run.name: run.rows.frame.drop_duplicates(["part", "seed", "job"])["part"].value_counts() for run in runs}
    return markdown.estimates_table("part", {part: {name: n.get(part) for name, n in counts.items()} for part in study.parts})


def command(study: type[Study[Any]], run: Results) -> str:
    """The command that runs the study with a run's settings."""
    usual = json.loads(json.dumps(asdict(study.settings_type())))
    precision = run.run.get("versions", {}).get("matmul")
    words = ["lens-fv", *([f"--matmul {precision}"] if precision else []), f"reproduce {study.name} --model {run.run['model']}"]
    for name, value in run.settings.items():
        if value != usual.get(name):
            text = "FILE" if name in study.external and value else _setting_text(value)
            words.append(f"--set {shlex.quote(f'{name}={text}')}")
    if (weights := run.run.get("weights", "float32")) != "float32":
        words.append(f"--dtype {weights}")
    return " ".join(words)


def _setting_text(value: Any) -> str:
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


def _image(file: str, caption: str) -> str:
    if file.endswith(".html"):
        return f"[Figure: {caption}]({file})"
    return f"![{re.sub(r'[][]', '', caption)}]({file})\n\n*{caption}*"
