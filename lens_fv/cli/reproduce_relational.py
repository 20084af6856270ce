"""The command that runs the study of relations: reproduce relational."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from lens_fv.cli.options import AsJson, Device, Dtype, Seed, open_model
from lens_fv.cli.reproduce import REPORTS, ReportFolder, ReportOnly, Seeds, Work, chosen_parts, emit_report, study_folders

if TYPE_CHECKING:
    from lens_fv.core.statistics import Estimate

MODELS = ("smollm2-135m", "gemma-3-270m")


def relational(
    model: Annotated[
        list[str] | None,
        typer.Option(help="Model to study; repeatable, models run one after another; default: smollm2-135m and gemma-3-270m."),
    ] = None,
    part: Annotated[
        list[str] | None,
        typer.Option(
            help="Part of the study: completion, transfer, analogies, decoding, tuning, carrying, kinds, lists or alignment; "
            "repeatable; default: all."
        ),
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="Built-in relation; repeatable; default: all.")] = None,
    seeds: Seeds = None,
    semeval: Annotated[
        Path | None, typer.Option(help="Folder of SemEval-2012 Task 2, for the comparison with human typicality.")
    ] = None,
    work: Work = Path("relational-study"),
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Run a small version: 8 relations, one seed, few prompts, steps, test pairs and analogies."
        ),
    ] = False,
    report_only: ReportOnly = False,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    out: ReportFolder = REPORTS,
) -> None:
    """Test the claims about extracted, tuned and composite vectors on all built-in relations.

    Writes vectors and records to --work, and the report to --out: relational.md, with figures and tables (CSV) in
    relational/.
    """
    from lens_fv.studies.relational.page.report import write_relational_report
    from lens_fv.studies.relational.run import PARTS, run_relational
    from lens_fv.studies.relational.settings import RelationalSettings
    from lens_fv.tasks import load_task

    names, folders = study_folders(model or (() if report_only else MODELS), work)
    if not report_only:
        parts = chosen_parts(part, PARTS)
        settings = RelationalSettings.chosen(
            quick=quick, relations=task, first_seed=seed, n_seeds=seeds, semeval=str(semeval) if semeval else None
        )
        for name in settings.relations:
            load_task(name)  # complain before a model is loaded
        for name, folder in zip(names, folders.values(), strict=True):
            run_relational(open_model(name, device, dtype), folder, settings, parts=parts, progress=True)
    page = write_relational_report(folders, out)
    found = {name: _summary(name, folder) for name, folder in folders.items()}
    emit_report(page, work, found, as_json, _table(found))


def _summary(name: str, folder: Path) -> dict[str, Any]:
    from lens_fv.studies.relational.page.pooling import result_scores
    from lens_fv.studies.relational.page.recorded import Recorded
    from lens_fv.studies.relational.run import PARTS

    run = Recorded(name, folder)
    top1 = result_scores(run.part("completion"), "top1")
    return {
        "folder": str(folder),
        "records": {part: len(run.part(part)) for part in PARTS},
        "completion": {condition: _numbers(top1.mean(condition)) for condition in top1.conditions},
        "tuned_minus_extracted": _numbers(top1.difference("tuned", "extracted")),
    }


def _numbers(found: "Estimate | None") -> dict[str, Any] | None:
    return found._asdict() if found else None


def _table(models: dict[str, Any]) -> Table:
    from lens_fv.core.statistics import Estimate

    table = Table(title="first-token accuracy, mean over relations", title_justify="left", box=None, pad_edge=False)
    for column in ("condition", *models):
        table.add_column(column)
    for condition in dict.fromkeys(c for found in models.values() for c in found["completion"]):
        means = [found["completion"].get(condition) for found in models.values()]
        table.add_row(condition, *(f"{m['mean']:.2f}" if m else "-" for m in means))
    gains = [found["tuned_minus_extracted"] for found in models.values()]
    said = (f"{Estimate(**g):+.2f}" if g else "-" for g in gains)
    table.add_row("tuned - extracted", *said)
    return table
