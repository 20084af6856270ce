"""The command that runs the study of instruction vectors: reproduce instruction."""

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


def instruction(
    model: Models = None,
    sequence: Annotated[
        list[str] | None,
        typer.Option(
            help="Comma-separated tasks (relations or files) in training order; repeatable; default: three sequences."
        ),
    ] = None,
    part: Annotated[
        list[str] | None,
        typer.Option(help="Part of the study: start, sequences, injection or counterparts; repeatable; default: all."),
    ] = None,
    heads: Annotated[int, typer.Option(min=1, help="Number of heads per vector.")] = 10,
    seeds: Seeds = None,
    work: Work = Path("instruction-study"),
    quick: Annotated[
        bool, typer.Option("--quick", help="Run a small version: one sequence, one seed, few examples, trials and test pairs.")
    ] = False,
    report_only: ReportOnly = False,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    out: ReportFolder = REPORTS,
) -> None:
    """Test the claims about fine-tuning and instruction vectors: are lost abilities erased or suppressed?

    Writes runs, vectors and records to --work, and the report to --out: instruction.md, with figures and tables in
    instruction/.
    """
    from lens_fv.studies.instruction.page.losses import lost_tasks
    from lens_fv.studies.instruction.page.recorded import Recorded
    from lens_fv.studies.instruction.page.report import write_instruction_report
    from lens_fv.studies.instruction.run import PARTS, run_instruction
    from lens_fv.studies.instruction.settings import InstructionSettings

    names, folders = study_folders(model or (() if report_only else (DEFAULT_MODEL,)), work)
    if not report_only:
        parts = chosen_parts(part, PARTS)
        given = [tuple(tasks.split(",")) for tasks in sequence] if sequence else None
        settings = InstructionSettings.chosen(quick=quick, sequences=given, n_heads=heads, first_seed=seed, n_seeds=seeds)
        for name, folder in zip(names, folders.values(), strict=True):
            run_instruction(name, folder, settings, parts=parts, device=device, dtype=dtype, progress=True)
    page = write_instruction_report(folders, out)
    found: dict[str, Any] = {}
    table = Table("model", "runs", "lost", "suppressed", "overwritten", title="tasks of runs", title_justify="left", box=None)
    for name, folder in folders.items():
        run = Recorded(name, folder)
        judged = [each.verdict.judgement for each in lost_tasks(run)]
        found[name] = {"folder": str(folder), "runs": len(run.followed), "lost": len(judged)}
        found[name] |= {kind: judged.count(kind) for kind in ("suppressed", "overwritten", "undecided")}
        table.add_row(name, *(str(found[name][key]) for key in ("runs", "lost", "suppressed", "overwritten")))
    emit_report(page, work, found, as_json, table)
