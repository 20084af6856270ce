"""Reports in a single file, and figures as files; neither writing nor opening them needs the network."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from html import unescape
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.graph_objects import Figure
from plotly.io import write_images
from plotly.offline import get_plotlyjs

from lens_fv.core.choices import checked
from lens_fv.core.files import write_atomically
from lens_fv.errors import LensFVError
from lens_fv.plotting.theme import template

Table = tuple[Sequence[str], Sequence[Sequence[object]]]
_LIBRARY = "plotly.min.js"


@dataclass(frozen=True)
class Section:
    """A section of a report.

    Attributes:
        title: Title as plain text.
        text: Plain paragraphs separated by blank lines; HTML if `html`.
        figures: Figures below the text by file name (see `save_figures`), in the page's light or dark theme.
        table: Column titles and rows, below the figures. The first column names the row; floats are written with three
            decimals.
        html: Treat `text` as trusted HTML; default: False.
    """

    title: str
    text: str = ""
    figures: Mapping[str, Figure] = field(default_factory=dict)
    table: Table | None = None
    html: bool = False

    def __post_init__(self) -> None:
        header, rows = self.table or ((), ())
        for i, row in enumerate(rows, 1):
            if len(row) != len(header):
                raise LensFVError(f"report section {self.title!r}: row {i} has {len(row)} cells, the header has {len(header)}")

    @property
    def paragraphs(self) -> list[str]:
        """The paragraphs of a plain text."""
        return [paragraph.strip() for paragraph in re.split(r"\n\s*\n", self.text) if paragraph.strip()]


@checked
def write_report(path: str | Path, *, title: str, intro_html: str = "", sections: Sequence[Section]) -> Path:
    """Write one self-contained HTML page, light or dark by the reader's setting, in a single atomic step.

    Args:
        path: File to write.
        title: Title as plain text.
        intro_html: Trusted HTML above the first section.
        sections: Sections, in order.

    Raises:
        LensFVError: the file cannot be written.

    Example:
        >>> heads = lens_fv.plotting.Section(title='Heads', figures={'heads': lens_fv.plotting.plot_heads(ranking)})
        >>> lens_fv.plotting.write_report(folder / 'report.html', title='My task', sections=[heads]).name
        'report.html'
    """
    numbers = count(1)
    drawings = [[_drawing(figure, f"figure-{next(numbers)}") for figure in section.figures.values()] for section in sections]
    library = get_plotlyjs() if any(drawings) else None
    content = {"title": title, "intro": intro_html, "sections": sections, "drawings": drawings}
    return write_atomically(Path(path), _render("report.html.j2", library=library, **content))


@checked
def save_figures(figures: Mapping[str, Figure], folder: str | Path, *, static: bool = False) -> list[Path]:
    """Write each figure as NAME.html and NAME.json, with one copy of plotly in the same folder.

    Args:
        figures: Figures by file name without extension.
        folder: Folder to write to, created if missing.
        static: Also write NAME.png and NAME.svg, in the theme that the figure was drawn in; needs kaleido and Chrome.

    Returns:
        Files of the figures, in order.

    Raises:
        LensFVError: an invalid file name, a folder that cannot be written to, or missing kaleido or Chrome.

    Example:
        >>> paths = lens_fv.plotting.save_figures({'heads': lens_fv.plotting.plot_heads(ranking)}, folder)
        >>> sorted(path.name for path in paths)
        ['heads.html', 'heads.json']
    """
    folder = Path(folder)
    for name in figures:
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise LensFVError(
                f"save a figure as {name!r}: use letters, digits, '-', '_' and '.', beginning with a letter or digit"
            )
    write_atomically(folder / _LIBRARY, get_plotlyjs())
    paths: list[Path] = []
    for name, figure in figures.items():
        drawings, title = [_drawing(figure, "figure-1")], _title(figure) or name
        page = _render("page.html.j2", title=title, drawings=drawings, library_file=_LIBRARY)
        paths.append(write_atomically(folder / f"{name}.html", page))
        paths.append(write_atomically(folder / f"{name}.json", str(figure.to_json())))
    return paths + (_static(figures, folder) if static and figures else [])


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
    with TemporaryDirectory(dir=folder, prefix=".static.") as temporary:
        try:
            write_images(twice, [Path(temporary, name) for name in names], **sizes)
        except Exception as e:  # kaleido, Chrome and the code between them raise many kinds of errors
            reason = next((line.strip() for line in str(e).splitlines() if line.strip()), type(e).__name__)
            raise LensFVError(
                f"draw {', '.join(names)}: kaleido or Chrome is missing or failed ({reason}); install lens-fv[figures] and "
                "Chrome (plotly_get_chrome), or leave static images out"
            ) from e
        return [Path(temporary, name).replace(folder / name) for name in names]


def _drawing(figure: Figure, name: str) -> dict[str, Any]:
    """What the template needs to draw a figure: its id, title and data."""
    content: dict[str, Any] = json.loads(str(figure.to_json()))
    content["layout"].pop("template", None)
    return {"id": name, "label": _title(figure) or "figure", "data": _script_json(content)}


def _title(figure: Figure) -> str:
    """Title of a figure as plain text; "" if it has none."""
    return unescape(figure.to_plotly_json()["layout"].get("title", {}).get("text") or "")


def _script_json(value: Any) -> str:
    """Encode JSON so that it cannot close the surrounding script element."""
    return json.dumps(value, default=list).replace("<", "\\u003c")


@cache
def html_templates(package: str) -> Environment:
    """The templates of HTML pages in the folder `templates` of a package."""
    loader = PackageLoader(package)
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def _render(name: str, *, library: str | None = None, library_file: str | None = None, **content: Any) -> str:
    """Render a page. Plotly, for its figures, is embedded (`library`) or in a file next to the page (`library_file`)."""
    themes: str | None = None
    if library or library_file:
        themes = _script_json({theme: template(theme).to_plotly_json() for theme in ("light", "dark")})
    page = html_templates("lens_fv.plotting").get_template(name)
    return page.render(themes=themes, library=library, library_file=library_file, **content)
