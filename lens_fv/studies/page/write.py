"""A page in Markdown, with figures and tables in a folder next to it."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from lens_fv.core.files import write_whole
from lens_fv.errors import LensFVError
from lens_fv.plotting import save_figures
from lens_fv.studies.page.markdown import Block, Picture, Sheet

LARGEST = 1_000_000
"""Bytes of an SVG figure; one that is larger is kept as PNG."""


def write_page(name: str, blocks: Sequence[Block], out: Path) -> Path:
    """Write the page OUT/NAME.md, and its figures and tables (CSV) in OUT/NAME.

    Figures are SVG, or PNG where that is too large; without kaleido and Chrome they are HTML.

    Args:
        name: page name.
        blocks: content in order; tables in files of their own are listed at the end.
        out: folder to write to.

    Raises:
        LensFVError: a folder that cannot be written to.
    """
    files = _draw([block for block in blocks if isinstance(block, Picture)], out / name)
    sheets = [block for block in blocks if isinstance(block, Sheet)]
    for sheet in sheets:
        write_whole(out / name / f"{sheet.name}.csv", sheet.csv())
    text = [_written(block, files, name) for block in blocks if not isinstance(block, Sheet)]
    if sheets:
        links = ", ".join(f"[{sheet.name}.csv]({name}/{sheet.name}.csv)" for sheet in sheets)
        text.append(f"## Numbers\n\nOne by one: {links}.")
    return write_whole(out / f"{name}.md", "\n\n".join(text) + "\n")


def _draw(pictures: Sequence[Picture], folder: Path) -> dict[str, str]:
    """The file of each figure. Only what the page shows is kept: no second format, and no JavaScript where images do."""
    figures = {picture.name: picture.figure for picture in pictures}
    files: dict[str, str] = {}
    with TemporaryDirectory() as aside:
        beside = Path(aside)
        try:
            for figure in figures.values():
                # Readable on any page, dark ones too.
                figure.update_layout(paper_bgcolor="white", plot_bgcolor="white")
            save_figures(figures, beside, static=True)
            for name in figures:
                svg = beside / f"{name}.svg"
                kept = svg if svg.stat().st_size <= LARGEST else svg.with_suffix(".png")
                files[name] = write_whole(folder / kept.name, kept.read_bytes()).name
        except LensFVError:
            for figure in figures.values():
                figure.update_layout(paper_bgcolor=None, plot_bgcolor=None)
            for path in save_figures(figures, beside):
                if path.suffix == ".html":
                    files[path.stem] = write_whole(folder / path.name, path.read_bytes()).name
            if files:
                write_whole(folder / "plotly.min.js", (beside / "plotly.min.js").read_bytes())
    return files


def _written(block: Block, files: Mapping[str, str], folder: str) -> str:
    if not isinstance(block, Picture):
        return str(block)
    file = files[block.name]
    if file.endswith(".html"):
        return f"[Figure: {block.caption}]({folder}/{file})"
    return f"![{re.sub(r'[][]', '', block.caption)}]({folder}/{file})\n\n*{block.caption}*"
