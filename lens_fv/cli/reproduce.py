"""Options and helpers shared by the commands `lens-fv reproduce ...`."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from lens_fv.cli.leaving import goes_on_in
from lens_fv.cli.options import emit

Models = Annotated[
    list[str] | None,
    typer.Option("--model", help="Model to study; repeatable, models run one after another; default: smollm2-135m."),
]
Seeds = Annotated[
    int | None, typer.Option("--seeds", min=1, help="Number of seeds, starting at --seed; default: 3, or 1 with --quick.")
]
Work = Annotated[
    Path,
    typer.Option("--work", help="Folder for intermediate results, with a subfolder per model; an interrupted study resumes."),
]
ReportOnly = Annotated[
    bool,
    typer.Option(
        "--report-only", help="Write the report from the results in --work (of --model, if given) without loading a model."
    ),
]
ReportFolder = Annotated[Path, typer.Option("--out", help="Folder for the report.")]
REPORTS = Path("docs/results")


def study_folders(models: Sequence[str], work: Path) -> tuple[list[str], dict[str, Path]]:
    """Return the models and each one's folder; without models, those already in the folder."""
    from lens_fv.errors import LensFVError

    goes_on_in(work)
    names = list(models) or sorted(path.parent.name for path in work.glob("*/study.json"))
    if not names:
        raise LensFVError(f"report on what {work} holds: no study is there; run one first, or name its folder by --work")
    folders = {Path(name).name: work / Path(name).name for name in names}
    if len(folders) < len(names):
        raise LensFVError(
            f"run {', '.join(names)}: two of them would share a folder in {work}; run them into two --work folders"
        )
    return names, folders


def chosen_parts(part: Sequence[str] | None, known: Collection[str]) -> list[str]:
    """Return the requested parts, by default all; unknown ones fail before a model is loaded."""
    from lens_fv.studies.parts import check_parts

    parts = list(part or known)
    check_parts(parts, known)
    return parts


def emit_report(page: Path, work: Path, models: Mapping[str, Any], as_json: bool, table: Table) -> None:
    """Print the results of a study for each model."""
    emit({"page": str(page), "work": str(work), "models": dict(models)}, as_json, table, f"written to {page}")
