"""The command that runs the study of guided fine-tuning: reproduce guided."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from lens_fv.cli.options import DEFAULT_MODEL, AsJson, Device, Dtype, Seed
from lens_fv.cli.reproduce import (
    REPORTS,
    Models,
    ReportFolder,
    ReportOnly,
    Seeds,
    Work,
    chosen_parts,
    emit_report,
    study_folders,
)


def guided(
    model: Models = None,
    part: Annotated[
        list[str] | None,
        typer.Option(help="Part of the study: start, choosing, methods, ablations or costs; repeatable; default: all."),
    ] = None,
    seeds: Seeds = None,
    work: Work = Path("guided-study"),
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Run a small version: one sequence, one seed, five methods, few examples and test pairs."),
    ] = False,
    report_only: ReportOnly = False,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    out: ReportFolder = REPORTS,
) -> None:
    """Test guided fine-tuning against established methods for preserving abilities.

    Writes runs, vectors and records to --work, and the report to --out: guided.md, with figures in guided/.
    """
    from lens_fv.studies.guided.page.recorded import METRICS, Recorded
    from lens_fv.studies.guided.page.report import write_guided_report
    from lens_fv.studies.guided.run import PARTS, run_guided
    from lens_fv.studies.guided.settings import GuidedSettings

    names, folders = study_folders(model or (() if report_only else (DEFAULT_MODEL,)), work)
    if not report_only:
        parts = chosen_parts(part, PARTS)
        settings = GuidedSettings.chosen(quick=quick, first_seed=seed, n_seeds=seeds)
        for name, folder in zip(names, folders.values(), strict=True):
            run_guided(name, folder, settings, parts=parts, device=device, dtype=dtype, progress=True)
    page = write_guided_report(folders, out)
    found: dict[str, Any] = {}
    table = Table("model", "method", "learned", "held out", "lost", title="shares right at the end", box=None)
    for name, folder in folders.items():
        run = Recorded(name, folder)
        means = {method: {metric: run.mean(method, metric)._asdict() for metric in METRICS} for method in run.runs}
        found[name] = {"folder": str(folder), "methods": means}
        for method, row in means.items():
            table.add_row(name, method, *(f"{row[key]['mean']:.2f}" for key in ("final", "general", "lost")))
    emit_report(page, work, found, as_json, table)
