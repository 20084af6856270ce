"""Reports in a single file, and figures as files; neither writing nor opening them needs the network."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from numbers import Number
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from plotly.graph_objects import Figure
from plotly.io import write_images
from plotly.offline import get_plotlyjs

from lens_fv.core.files import write_atomically
from lens_fv.errors import LensFVError
from lens_fv.plotting.page import figure_html, page_html, title_of

Table = tuple[Sequence[str], Sequence[Sequence[object]]]
_LIBRARY = "plotly.min.js"


@dataclass(frozen=True)
class Section:
    """A section of a report.

    Attributes:
        title: title as plain text.
        text: plain paragraphs separated by blank lines; HTML if `html`.
        figures: figures below the text, in the page's light or dark theme.
        table: column titles and rows, below the figures. The first column names the row; floats are written with three
            decimals.
        html: treat `text` as trusted HTML; default: False.
    """

    title: str
    text: str = ""
    figures: tuple[Figure, ...] = ()
    table: Table | None = None
    html: bool = False

    def __post_init__(self) -> None:
        """Check that every row of the table is as long as its header."""
        header, rows = self.table or ((), ())
        for i, row in enumerate(rows, 1):
            if len(row) != len(header):
                raise LensFVError(f"report section {self.title!r}: row {i} has {len(row)} cells, the header has {len(header)}")


def write_report(path: str | Path, *, title: str, intro_html: str = "", sections: Sequence[Section]) -> Path:
    """Write one self-contained HTML page, light or dark by the reader's setting, in a single atomic step.

    Args:
        path: file to write.
        title: title as plain text.
        intro_html: trusted HTML above the first section.
        sections: sections, in order.

    Raises:
        LensFVError: the file cannot be written.
    """
    links = "".join(f'<li><a href="#part-{i}">{escape(part.title)}</a></li>' for i, part in enumerate(sections, 1))
    contents = f'<nav aria-label="Contents"><ul>{links}</ul></nav>' if len(sections) > 1 else ""
    body, drawn = [f"<header><h1>{escape(title)}</h1>{intro_html}{contents}</header>"], 0
    for i, part in enumerate(sections, 1):
        figures = "".join(figure_html(figure, f"figure-{drawn + j}") for j, figure in enumerate(part.figures, 1))
        drawn += len(part.figures)
        table = _table(part.title, part.table) if part.table else ""
        heading = f'<h2 id="part-{i}-title">{escape(part.title)}</h2>'
        inside = heading + _paragraphs(part) + figures + table
        body.append(f'<section id="part-{i}" aria-labelledby="part-{i}-title">{inside}</section>')
    return write_atomically(Path(path), page_html(title, "\n".join(body), library=get_plotlyjs() if drawn else None))


def save_figures(figures: Mapping[str, Figure], folder: str | Path, *, static: bool = False) -> list[Path]:
    """Write each figure as NAME.html and NAME.json, with one copy of plotly in the same folder.

    Args:
        figures: figures by file name without extension.
        folder: folder to write to, created if missing.
        static: also write NAME.png and NAME.svg, in the theme that the figure was drawn in; needs kaleido and Chrome.

    Returns:
        Files of the figures, in order.

    Raises:
        LensFVError: an invalid file name, a folder that cannot be written to, or missing kaleido or Chrome.
    """
    folder = Path(folder)
    for name in figures:
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise LensFVError(
                f"save a figure as {name!r}: use letters, digits, '-', '_' and '.', beginning with a letter or digit"
            )
    write_atomically(folder / _LIBRARY, get_plotlyjs())
    written: list[Path] = []
    for name, figure in figures.items():
        page = page_html(title_of(figure) or name, figure_html(figure, "figure-1"), library_file=_LIBRARY)
        written.append(write_atomically(folder / f"{name}.html", page))
        written.append(write_atomically(folder / f"{name}.json", str(figure.to_json())))
    return written + (_static(figures, folder) if static and figures else [])


def _static(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Write all static images at once, because starting Chrome takes seconds."""
    names = [f"{name}.{kind}" for name in figures for kind in ("png", "svg")]
    twice = [figure for figure in figures.values() for _ in ("png", "svg")]
    # By default plotly would draw all figures in one size. Its annotations allow one number, its code takes a list.
    sizes: dict[str, Any] = {
        "width": [figure.layout.width or 900 for figure in twice],
        "height": [figure.layout.height or 500 for figure in twice],
        "scale": [3, 1] * len(figures),
    }
    with TemporaryDirectory(dir=folder, prefix=".static.") as beside:
        try:
            write_images(twice, [Path(beside, name) for name in names], **sizes)
        except Exception as e:  # kaleido, Chrome and the code between them raise many kinds of errors
            found = next((line.strip() for line in str(e).splitlines() if line.strip()), type(e).__name__)
            raise LensFVError(
                f"draw {', '.join(names)}: kaleido or Chrome is missing or failed ({found}); install lens-fv[figures] and "
                "Chrome (plotly_get_chrome), or leave static images out"
            ) from e
        return [Path(beside, name).replace(folder / name) for name in names]


def _paragraphs(part: Section) -> str:
    if part.html:
        return part.text
    return "".join(f"<p>{escape(p.strip())}</p>" for p in re.split(r"\n\s*\n", part.text) if p.strip())


def _table(title: str, table: Table) -> str:
    header, rows = table
    head = "".join(f'<th scope="col">{escape(str(name))}</th>' for name in header)
    body = "".join(f"<tr>{''.join(_cell(value, first=i == 0) for i, value in enumerate(row))}</tr>" for row in rows)
    # Focusable, so that a wide table can be scrolled by keyboard.
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{escape(title)}: table">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(value: object, *, first: bool) -> str:
    shown = escape(f"{value:.3f}" if isinstance(value, float) else str(value))
    number = ' class="number"' if not isinstance(value, bool) and isinstance(value, Number) else ""
    return f'<th scope="row"{number}>{shown}</th>' if first else f"<td{number}>{shown}</td>"
