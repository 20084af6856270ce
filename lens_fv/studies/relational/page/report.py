"""The study as a page in Markdown, with figures and tables beside it."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from lens_fv.errors import LensFVError
from lens_fv.files import write_whole
from lens_fv.plotting import save_figures, theme
from lens_fv.studies.relational.page.insides import alignment, decoding, transfer
from lens_fv.studies.relational.page.markdown import Block, Picture, Sheet, table
from lens_fv.studies.relational.page.recorded import Recorded, command
from lens_fv.studies.relational.page.sections import completion, per_relation
from lens_fv.studies.relational.page.solved import analogies
from lens_fv.studies.relational.page.ways import carrying, kinds, lists, tuning
from lens_fv.studies.relational.page.words import HOW
from lens_fv.studies.relational.run import PARTS

SECTIONS = (completion, tuning, kinds, lists, transfer, carrying, decoding, alignment, analogies, per_relation)
NAME = "relational"
LARGEST = 1_000_000
"""Bytes of an SVG figure; one that is larger is kept as PNG."""


def write_relational_report(studies: Mapping[str, Path], out: Path) -> Path:
    """Write what the studies have so far: the page OUT/relational.md, and figures and tables (CSV) in OUT/relational.

    A part that was not run leaves its section out. Figures are SVG, or PNG where that is too large; without kaleido and Chrome
    they are HTML.

    Args:
        studies: each model's folder, by the model's name.
        out: where to write.

    Returns:
        The page.

    Raises:
        LensFVError: no studies, no study in a folder, or a folder that cannot be written to.
    """
    if not studies:
        raise LensFVError("report on relations: no studies are given; run `lens-fv reproduce relational` first")
    runs = [Recorded(name, Path(folder)) for name, folder in studies.items()]
    with theme("print"):
        blocks = [*_opening(runs), *(block for section in SECTIONS for block in section(runs))]
    files = _draw([block for block in blocks if isinstance(block, Picture)], out / NAME)
    sheets = [block for block in blocks if isinstance(block, Sheet)]
    for sheet in sheets:
        write_whole(out / NAME / f"{sheet.name}.csv", sheet.csv())
    text = [_written(block, files) for block in blocks if not isinstance(block, Sheet)]
    if sheets:
        links = ", ".join(f"[{sheet.name}.csv]({NAME}/{sheet.name}.csv)" for sheet in sheets)
        text.append(f"## Numbers\n\nRelation by relation: {links}.")
    return write_whole(out / f"{NAME}.md", "\n\n".join(text) + "\n")


def _opening(runs: Sequence[Recorded]) -> list[Block]:
    ran, first = command(runs), runs[0].settings
    how = f"```sh\n{ran}\n```" if ran else "The studies were run from Python, with the settings below."
    rows: list[list[object]] = [["revision", *(run.settings["revision"] for run in runs)]]
    for key in (k for k in first if k not in ("model", "revision", "few")):
        rows.append([key, *(_setting(run.settings.get(key)) for run in runs)])
    rows += [
        [key, *(run.made_with.get(key) for run in runs)] for key in dict.fromkeys(k for run in runs for k in run.made_with)
    ]
    done = [[part, *(len(run.part(part)) or None for run in runs)] for part in PARTS]
    names = [run.name for run in runs]
    return [
        "# Relations: extracted, tuned and composite vectors",
        f"This page is made from the records of a run, {_are(names)}:",
        how,
        HOW,
        table(["setting", *names], rows),
        "Records so far, by part (a record is what its part can go on from):",
        table(["part", *names], done),
    ]


def _are(names: Sequence[str]) -> str:
    return f"on {', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else f"on {names[0]}"


def _setting(value: object) -> object:
    if isinstance(value, list):
        return f"{len(value)}" if value and isinstance(value[0], str) else ", ".join(f"{x:g}" for x in value)
    # Where a data set lies on somebody's disk says nothing.
    return "given" if isinstance(value, str) else value


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


def _written(block: Block, files: Mapping[str, str]) -> str:
    if not isinstance(block, Picture):
        return str(block)
    file = files[block.name]
    if file.endswith(".html"):
        return f"[Figure: {block.caption}]({NAME}/{file})"
    return f"![{re.sub(r'[][]', '', block.caption)}]({NAME}/{file})\n\n*{block.caption}*"
