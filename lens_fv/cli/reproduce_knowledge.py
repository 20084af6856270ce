"""The command that runs the study of knowledge updates: reproduce knowledge."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from lens_fv.cli.options import DEFAULT_MODEL, AsJson, Device, Dtype, Seed, open_model
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


def knowledge(
    model: Models = None,
    outside: Annotated[
        Path | None, typer.Option(help="File of further entities, such as Entity Inferences; default: only the built-in ones.")
    ] = None,
    part: Annotated[
        list[str] | None,
        typer.Option(help="Part of the study: base, ways, numbers, steps, traces or vectors; repeatable; default: all."),
    ] = None,
    seeds: Seeds = None,
    work: Work = Path("knowledge-study"),
    quick: Annotated[bool, typer.Option("--quick", help="Run a small version: few entities and sentences, one seed.")] = False,
    report_only: ReportOnly = False,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    out: ReportFolder = REPORTS,
) -> None:
    """Test the claims about context distillation: knowledge gained, side effects and internal changes.

    Writes sentences, updates and records to --work, and the report to --out: knowledge.md, with figures in knowledge/.
    """
    from lens_fv.studies.knowledge.page.recorded import Recorded, closed
    from lens_fv.studies.knowledge.page.report import write_knowledge_report
    from lens_fv.studies.knowledge.run import PARTS, run_knowledge
    from lens_fv.studies.knowledge.settings import KnowledgeSettings

    names, folders = study_folders(model or (() if report_only else (DEFAULT_MODEL,)), work)
    if not report_only:
        parts = chosen_parts(part, PARTS)
        settings = KnowledgeSettings.chosen(
            quick=quick, outside=str(outside) if outside else None, first_seed=seed, n_seeds=seeds
        )
        for name, folder in zip(names, folders.values(), strict=True):
            run_knowledge(open_model(name, device, dtype), folder, settings, parts=parts, progress=True)
    page = write_knowledge_report(folders, out)
    found: dict[str, Any] = {}
    table = Table("model", "entities", "taught by", "gap closed", title="share of the gap in accuracy", box=None)
    for name, folder in folders.items():
        run = Recorded(name, folder)
        found[name] = {"folder": str(folder), "gap_closed": {}}
        for source in run.sources:
            base, read = run.base(source), run.base(source, "definition")
            for way, condition in run.conditions(source).items():
                gap = closed(base, condition.scores, read, of="accuracy")
                found[name]["gap_closed"].setdefault(source, {})[way] = gap and gap._asdict()
                table.add_row(name, source, way, str(gap) if gap else "-")
    emit_report(page, work, found, as_json, table)
