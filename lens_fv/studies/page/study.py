"""The page of a study: what it was run with, and what was found."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lens_fv.errors import LensFVError
from lens_fv.plotting import theme
from lens_fv.studies.page.markdown import Block, table
from lens_fv.studies.page.recorded import RecordedStudy
from lens_fv.studies.page.write import write_page

R = TypeVar("R", bound=RecordedStudy)


def write_study_page(
    kind: type[R], studies: Mapping[str, Path], out: Path, blocks: Callable[[Sequence[R]], Sequence[Block]]
) -> Path:
    """Write what a study has so far: the page OUT/STUDY.md, and its figures and tables (CSV) in OUT/STUDY; see `write_page`.

    Args:
        kind: reads a model's folder.
        studies: each model's folder, by the model's name.
        out: where to write.
        blocks: what is on the page.

    Returns:
        The page.

    Raises:
        LensFVError: no studies, no study in a folder, or a folder that cannot be written to.
    """
    if not studies:
        raise LensFVError(f"report on the {kind.study} study: no studies are given; run `lens-fv reproduce {kind.study}` first")
    runs = [kind(name, Path(folder)) for name, folder in studies.items()]
    with theme("print"):
        drawn = blocks(runs)
    return write_page(kind.study, drawn, out)


def opening(runs: Sequence[RecordedStudy], title: str, how: str, *, files: Collection[str] = ()) -> list[Block]:
    """What stands above the first model: the commands that run the same, how to read the numbers, and the settings.

    Args:
        runs: one study for each model.
        title: page title.
        how: paragraph that says how to read the numbers.
        files: settings that may be paths; only their names are shown.
    """
    names = [run.name for run in runs]
    commands = [
        run.as_run(run.command) if run.command else f"# {run.name}: run from Python, with the settings below" for run in runs
    ]
    rows: list[list[object]] = []
    for key in runs[0].shown:
        values = [run.shown.get(key) for run in runs]
        rows.append([key, *(Path(value).name if value and key in files else _in_words(value) for value in values)])
    made_with = dict.fromkeys(key for run in runs for key in run.made_with)
    rows += [[key, *(run.made_with.get(key) for run in runs)] for key in made_with]
    return [
        f"# {title}",
        f"This page is made from the records of a run on {', '.join(names)}:",
        "```sh\n" + "\n".join(commands) + "\n```",
        how,
        table(["setting", *names], rows, words=1 + len(names)),
    ]


def run_by_run(runs: Sequence[R], sections: Sequence[Callable[[R], list[Block]]]) -> list[Block]:
    """All sections of the first model, then all of the next."""
    blocks: list[Block] = []
    for run in runs:
        blocks += [f"## {run.name}", *(block for section in sections for block in section(run))]
    return blocks


def _in_words(value: Any) -> Any:
    """A setting in few words."""
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_in_words(each)}" for key, each in value.items() if not isinstance(each, dict))
    return ", ".join(map(str, value)) if isinstance(value, list) else value
