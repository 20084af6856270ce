"""The commands `lens-fv reproduce ...`: whole studies, and their reports."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from lens_fv.cli.options import AsJson, Device, Dtype, Seed, emit, open_model

if TYPE_CHECKING:
    from lens_fv.statistics import Estimate

reproduce = typer.Typer(help="Run a study from end to end and write its report.", no_args_is_help=True)
MODELS = ("smollm2-135m", "gemma-3-270m")


@reproduce.command()
def relational(
    model: Annotated[
        list[str] | None, typer.Option(help="Several times; default: smollm2-135m and gemma-3-270m. One runs after the other.")
    ] = None,
    part: Annotated[
        list[str] | None,
        typer.Option(
            help="Several times: completion, transfer, analogies, decoding, tuning, carrying, kinds, lists, alignment."
        ),
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="A built-in relation; several times; default: all of them.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="How many, from --seed on; default: 3, with --quick 1.")] = None,
    semeval: Annotated[
        Path | None, typer.Option(help="A folder of SemEval-2012 Task 2, for the comparison with human typicality.")
    ] = None,
    work: Annotated[
        Path, typer.Option(help="Where vectors and records are kept, a folder for each model; a run that was stopped goes on.")
    ] = Path("relational-study"),
    quick: Annotated[
        bool,
        typer.Option("--quick", help="A first look: 8 relations, one seed, few prompts, steps, test pairs and analogies."),
    ] = False,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Report on what --work holds (of --model, if given), and load no model.")
    ] = False,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    out: Annotated[Path, typer.Option("--out", help="The folder of the report.")] = Path("docs/results"),
) -> None:
    """Put the claims about extracted, tuned and composite vectors to the test on all built-in relations.

    Writes vectors and records to --work, and the report to --out: relational.md, its figures and tables (CSV) in relational/.
    """
    from lens_fv.studies.relational.page.report import write_relational_report

    names, folders = study_folders(model or (None if report_only else list(MODELS)), work)
    if not report_only:
        _run(names, list(folders.values()), part, task, seeds, seed, semeval, quick, device, dtype)
    page = write_relational_report(folders, out)
    payload = {"page": str(page), "work": str(work), "models": {name: _summary(name, f) for name, f in folders.items()}}
    emit(payload, as_json, _table(payload["models"]), f"written to {page}")


@reproduce.command()
def instruction(
    model: Annotated[
        list[str] | None, typer.Option(help="Several times; default: smollm2-135m. One runs after the other.")
    ] = None,
    sequence: Annotated[
        list[str] | None,
        typer.Option(help="Tasks (relations or files) in the order of training, with commas; several times; default: three."),
    ] = None,
    part: Annotated[list[str] | None, typer.Option(help="Several times: start, sequences, injection, counterparts.")] = None,
    heads: Annotated[int, typer.Option(min=1, help="Of every vector.")] = 10,
    seeds: Annotated[int | None, typer.Option(min=1, help="How many, from --seed on; default: 3, with --quick 1.")] = None,
    work: Annotated[
        Path, typer.Option(help="Where runs, vectors and records are kept, a folder for each model; a study goes on.")
    ] = Path("instruction-study"),
    quick: Annotated[
        bool, typer.Option("--quick", help="A first look: one sequence, one seed, few examples, trials and test pairs.")
    ] = False,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Report on what --work holds (of --model, if given), and load no model.")
    ] = False,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    out: Annotated[Path, typer.Option("--out", help="The folder of the report.")] = Path("docs/results"),
) -> None:
    """Put the claims about fine-tuning and instruction vectors to the test: what is lost, and is it gone?

    Writes runs, vectors and records to --work, and the report to --out: instruction.md, figures and tables in instruction/.
    """
    from lens_fv.studies.instruction.page.losses import lost_tasks
    from lens_fv.studies.instruction.page.recorded import Recorded
    from lens_fv.studies.instruction.page.report import write_instruction_report
    from lens_fv.studies.instruction.run import PARTS, run_instruction
    from lens_fv.studies.instruction.settings import InstructionSettings
    from lens_fv.studies.parts import check_parts

    names, folders = study_folders(model or (None if report_only else list(MODELS[:1])), work)
    if not report_only:
        parts = part or list(PARTS)
        check_parts(parts, PARTS)
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
    emit({"page": str(page), "work": str(work), "models": found}, as_json, table, f"written to {page}")


def study_folders(models: list[str] | None, work: Path) -> tuple[list[str], dict[str, Path]]:
    """The models, and each one's folder; without models those that are in the folder already."""
    from lens_fv.errors import LensFVError

    names = models or sorted(path.parent.name for path in work.glob("*/study.json"))
    if not names:
        raise LensFVError(f"report on what {work} holds: no study is there; run one first, or name its folder by --work")
    folders = {Path(name).name: work / Path(name).name for name in names}
    if len(folders) < len(names):
        raise LensFVError(
            f"run {', '.join(names)}: two of them would share a folder in {work}; run them into two --work folders"
        )
    return names, folders


def _run(
    names: list[str],
    folders: list[Path],
    part: list[str] | None,
    task: list[str] | None,
    seeds: int | None,
    seed: int,
    semeval: Path | None,
    quick: bool,
    device: str | None,
    dtype: str | None,
) -> None:
    from lens_fv.studies.parts import check_parts
    from lens_fv.studies.relational.run import PARTS, run_relational
    from lens_fv.studies.relational.settings import RelationalSettings
    from lens_fv.tasks import load_task

    parts = part or list(PARTS)
    check_parts(parts, PARTS)
    settings = RelationalSettings.chosen(
        quick=quick, relations=task, first_seed=seed, n_seeds=seeds, semeval=str(semeval) if semeval else None
    )
    for name in settings.relations:
        load_task(name)  # complain before a model is loaded
    for name, folder in zip(names, folders, strict=True):
        run_relational(open_model(name, device, dtype), folder, settings, parts=parts, progress=True)


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
    table = Table(title="first-token accuracy, mean over relations", title_justify="left", box=None, pad_edge=False)
    for column in ("condition", *models):
        table.add_column(column)
    for condition in dict.fromkeys(c for found in models.values() for c in found["completion"]):
        means = [found["completion"].get(condition) for found in models.values()]
        table.add_row(condition, *(f"{m['mean']:.2f}" if m else "-" for m in means))
    gains = [found["tuned_minus_extracted"] for found in models.values()]
    said = (f"{g['mean']:+.2f} [{g['low']:+.2f}, {g['high']:+.2f}]" if g else "-" for g in gains)
    table.add_row("tuned - extracted", *said)
    return table
