"""What the commands `lens-fv reproduce ...` share: whole studies, and their reports."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from lens_fv.cli.leaving import goes_on_in
from lens_fv.cli.options import emit

Models = Annotated[
    list[str] | None, typer.Option("--model", help="Several times; default: smollm2-135m. One runs after the other.")
]
Seeds = Annotated[int | None, typer.Option("--seeds", min=1, help="How many, from --seed on; default: 3, with --quick 1.")]
Work = Annotated[
    Path, typer.Option("--work", help="Where what is made is kept, a folder for each model; a study that was stopped goes on.")
]
ReportOnly = Annotated[
    bool, typer.Option("--report-only", help="Report on what --work holds (of --model, if given), and load no model.")
]
ReportFolder = Annotated[Path, typer.Option("--out", help="The folder of the report.")]
REPORTS = Path("docs/results")


def study_folders(models: Sequence[str], work: Path) -> tuple[list[str], dict[str, Path]]:
    """The models, and each one's folder; without models those that are in the folder already."""
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
    """The parts that were asked for, by default all; complains before a model is loaded."""
    from lens_fv.studies.parts import check_parts

    parts = list(part or known)
    check_parts(parts, known)
    return parts


def emit_report(page: Path, work: Path, models: Mapping[str, Any], as_json: bool, table: Table) -> None:
    """Print what a study has found, model by model."""
    emit({"page": str(page), "work": str(work), "models": dict(models)}, as_json, table, f"written to {page}")
