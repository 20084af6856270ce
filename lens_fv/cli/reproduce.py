"""The commands `lens-fv reproduce ...`: run a study from end to end and write its report."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

import lens_fv as fv
from lens_fv.cli.command import Options, command
from lens_fv.cli.inputs import MODEL, Placing, open_model
from lens_fv.cli.leaving import goes_on_in
from lens_fv.cli.output import Printout
from lens_fv.core.choices import Count, Seed
from lens_fv.errors import LensFVError

if TYPE_CHECKING:
    from lens_fv.core.statistics import Estimate

HELP = "Run a study from end to end and write its report."
Models = Annotated[
    Sequence[str] | None, Parameter(help="Model to study; repeatable, models run one after another; default: smollm2-135m.")
]
Seeds = Annotated[Count | None, Parameter(help="Number of seeds, starting at --seed; default: 3, or 1 with --quick.")]
FirstSeed = Annotated[Seed, Parameter(help="First seed of splits, prompts and random draws.")]
RunDir = Annotated[
    Path, Parameter(help="Folder for intermediate results, with a subfolder per model; an interrupted study resumes.")
]
ReportOnly = Annotated[
    bool, Parameter(help="Write the report from the results in --run-dir (of --model, if given) without loading a model.")
]
ReportFolder = Annotated[Path, Parameter(help="Folder for the report.")]
REPORTS = Path("docs/results")


@command
def relational(
    *,
    model: Models = None,
    part: Sequence[str] | None = None,
    task: Sequence[str] | None = None,
    seeds: Seeds = None,
    semeval: Path | None = None,
    run_dir: RunDir = Path("relational-study"),
    quick: bool = False,
    report_only: ReportOnly = False,
    seed: FirstSeed = 0,
    placing: Placing,
    out: ReportFolder = REPORTS,
) -> Printout:
    """Test the claims about extracted, tuned and composite vectors on all built-in relations.

    Writes vectors and records to --run-dir, and the report to --out: relational.md, with figures and tables (CSV) in
    relational/.

    Args:
        model: Model to study; repeatable, models run one after another; default: smollm2-135m and gemma-3-270m.
        part: Part of the study: completion, transfer, analogies, decoding, tuning, carrying, kinds, lists or alignment;
            repeatable; default: all.
        task: Built-in relation; repeatable; default: all.
        semeval: Folder of SemEval-2012 Task 2, for the comparison with human typicality.
        quick: Run a small version: 8 relations, one seed, few prompts, steps, test pairs and analogies.
    """
    from lens_fv.studies.relational.page.report import write_relational_report
    from lens_fv.studies.relational.run import PARTS, run_relational
    from lens_fv.studies.relational.settings import RelationalSettings

    names, folders = _folders(model or (() if report_only else (MODEL, "gemma-3-270m")), run_dir)
    if not report_only:
        parts = _parts(part, PARTS)
        settings = RelationalSettings.chosen(
            quick=quick, relations=task, first_seed=seed, n_seeds=seeds, semeval=str(semeval) if semeval else None
        )
        for name in settings.relations:
            fv.load_task(name)  # complain before a model is loaded
        for name, folder in zip(names, folders.values(), strict=True):
            run_relational(open_model(name, **placing), folder, settings, parts=parts, progress=True)
    page = write_relational_report(folders, out)
    return _reported(page, run_dir, {name: _relational(name, folder) for name, folder in folders.items()})


@command
def instruction(
    *,
    model: Models = None,
    sequence: Sequence[str] | None = None,
    part: Sequence[str] | None = None,
    n_heads: Count = 10,
    seeds: Seeds = None,
    run_dir: RunDir = Path("instruction-study"),
    quick: bool = False,
    report_only: ReportOnly = False,
    seed: FirstSeed = 0,
    placing: Placing,
    out: ReportFolder = REPORTS,
) -> Printout:
    """Test the claims about fine-tuning and instruction vectors: are lost abilities erased or suppressed?

    Writes runs, vectors and records to --run-dir, and the report to --out: instruction.md, with figures and tables in
    instruction/.

    Args:
        sequence: Comma-separated tasks (relations or files) in training order; repeatable; default: three sequences.
        part: Part of the study: start, sequences, injection or counterparts; repeatable; default: all.
        n_heads: Number of heads per vector.
        quick: Run a small version: one sequence, one seed, few examples, trials and test pairs.
    """
    from lens_fv.studies.instruction.page.losses import lost_tasks
    from lens_fv.studies.instruction.page.recorded import Recorded
    from lens_fv.studies.instruction.page.report import write_instruction_report
    from lens_fv.studies.instruction.run import PARTS, run_instruction
    from lens_fv.studies.instruction.settings import InstructionSettings

    names, folders = _folders(model or (() if report_only else (MODEL,)), run_dir)
    if not report_only:
        parts = _parts(part, PARTS)
        given = [tuple(tasks.split(",")) for tasks in sequence] if sequence else None
        settings = InstructionSettings.chosen(quick=quick, sequences=given, n_heads=n_heads, first_seed=seed, n_seeds=seeds)
        for name, folder in zip(names, folders.values(), strict=True):
            run_instruction(name, folder, settings, parts=parts, **_placed(placing), progress=True)
    page = write_instruction_report(folders, out)
    models: dict[str, Any] = {}
    for name, folder in folders.items():
        run = Recorded(name, folder)
        judged = [each.verdict.judgement for each in lost_tasks(run)]
        models[name] = {"folder": str(folder), "runs": len(run.followed), "lost": len(judged)}
        models[name] |= {kind: judged.count(kind) for kind in ("suppressed", "overwritten", "undecided")}
    return _reported(page, run_dir, models)


@command
def knowledge(
    *,
    model: Models = None,
    external_entities: Path | None = None,
    part: Sequence[str] | None = None,
    seeds: Seeds = None,
    run_dir: RunDir = Path("knowledge-study"),
    quick: bool = False,
    report_only: ReportOnly = False,
    seed: FirstSeed = 0,
    placing: Placing,
    out: ReportFolder = REPORTS,
) -> Printout:
    """Test the claims about context distillation: knowledge gained, side effects and internal changes.

    Writes sentences, updates and records to --run-dir, and the report to --out: knowledge.md, with figures in knowledge/.

    Args:
        external_entities: File of further entities, such as Entity Inferences; default: only the built-in ones.
        part: Part of the study: base, ways, numbers, steps, traces or vectors; repeatable; default: all.
        quick: Run a small version: few entities and sentences, one seed.
    """
    from lens_fv.studies.knowledge.page.recorded import Recorded, closed
    from lens_fv.studies.knowledge.page.report import write_knowledge_report
    from lens_fv.studies.knowledge.run import PARTS, run_knowledge
    from lens_fv.studies.knowledge.settings import KnowledgeSettings

    names, folders = _folders(model or (() if report_only else (MODEL,)), run_dir)
    if not report_only:
        parts = _parts(part, PARTS)
        outside = str(external_entities) if external_entities else None
        settings = KnowledgeSettings.chosen(quick=quick, outside=outside, first_seed=seed, n_seeds=seeds)
        for name, folder in zip(names, folders.values(), strict=True):
            run_knowledge(open_model(name, **placing), folder, settings, parts=parts, progress=True)
    page = write_knowledge_report(folders, out)
    models: dict[str, Any] = {}
    for name, folder in folders.items():
        run = Recorded(name, folder)
        models[name] = {"folder": str(folder), "gap_closed": {}}
        for source in run.sources:
            base, read = run.base(source), run.base(source, "definition")
            gaps = {way: closed(base, each.scores, read, of="accuracy") for way, each in run.conditions(source).items()}
            models[name]["gap_closed"][source] = {way: _numbers(gap) for way, gap in gaps.items()}
    return _reported(page, run_dir, models)


@command
def guided(
    *,
    model: Models = None,
    part: Sequence[str] | None = None,
    seeds: Seeds = None,
    run_dir: RunDir = Path("guided-study"),
    quick: bool = False,
    report_only: ReportOnly = False,
    seed: FirstSeed = 0,
    placing: Placing,
    out: ReportFolder = REPORTS,
) -> Printout:
    """Test guided fine-tuning against established methods for preserving abilities.

    Writes runs, vectors and records to --run-dir, and the report to --out: guided.md, with figures in guided/.

    Args:
        part: Part of the study: start, choosing, methods, ablations or costs; repeatable; default: all.
        quick: Run a small version: one sequence, one seed, five methods, few examples and test pairs.
    """
    from lens_fv.studies.guided.page.recorded import METRICS, Recorded
    from lens_fv.studies.guided.page.report import write_guided_report
    from lens_fv.studies.guided.run import PARTS, run_guided
    from lens_fv.studies.guided.settings import GuidedSettings

    names, folders = _folders(model or (() if report_only else (MODEL,)), run_dir)
    if not report_only:
        parts = _parts(part, PARTS)
        settings = GuidedSettings.chosen(quick=quick, first_seed=seed, n_seeds=seeds)
        for name, folder in zip(names, folders.values(), strict=True):
            run_guided(name, folder, settings, parts=parts, **_placed(placing), progress=True)
    page = write_guided_report(folders, out)
    models: dict[str, Any] = {}
    for name, folder in folders.items():
        run = Recorded(name, folder)
        means = {method: {metric: run.mean(method, metric)._asdict() for metric in METRICS} for method in run.runs}
        models[name] = {"folder": str(folder), "methods": means}
    return _reported(page, run_dir, models)


def _folders(models: Sequence[str], run_dir: Path) -> tuple[list[str], dict[str, Path]]:
    """Return the models and each one's folder; without models, those already in the folder."""
    goes_on_in(run_dir)
    names = list(models) or sorted(path.parent.name for path in run_dir.glob("*/study.json"))
    if not names:
        raise LensFVError(f"report on what {run_dir} holds: no study is there; run one first, or name its folder by --run-dir")
    folders = {Path(name).name: run_dir / Path(name).name for name in names}
    if len(folders) < len(names):
        raise LensFVError(
            f"run {', '.join(names)}: two of them would share a folder in {run_dir}; run them into two --run-dir folders"
        )
    return names, folders


def _parts(part: Sequence[str] | None, known: Collection[str]) -> list[str]:
    """Return the requested parts, by default all; unknown ones fail before a model is loaded."""
    from lens_fv.studies.parts import check_parts

    parts = list(part or known)
    check_parts(parts, known)
    return parts


def _placed(placing: Options) -> Options:
    return {"device": None, "dtype": None, **placing}


def _reported(page: Path, run_dir: Path, models: Mapping[str, Any]) -> Printout:
    return Printout({"page": str(page), "run_dir": str(run_dir), "models": dict(models)}, f"written to {page}")


def _relational(name: str, folder: Path) -> dict[str, Any]:
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


def _numbers(estimate: "Estimate | None") -> dict[str, Any] | None:
    return estimate._asdict() if estimate else None


COMMANDS = (relational, instruction, knowledge, guided)
