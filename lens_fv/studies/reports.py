"""The HTML reports of the demonstration and of a tracked fine-tuning run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.graph_objects import Figure

from lens_fv.core.files import file_name
from lens_fv.dynamics import Trajectory, Verdict
from lens_fv.evaluation import Evaluation
from lens_fv.finetuning import FinetuneRun
from lens_fv.model.lens_model import LensModel
from lens_fv.plotting import (
    Section,
    plot_abilities,
    plot_conditions,
    plot_decoded,
    plot_forgetting,
    plot_head_change,
    plot_heads,
    plot_layers,
    plot_recovery,
    plot_top_heads,
    plot_vector_plane,
    plot_vector_similarity,
    save_figures,
    write_report,
)
from lens_fv.studies.demo import TaskStudy

Table = tuple[Sequence[str], Sequence[Sequence[object]]]


def write_demo_report(
    out: Path, model: LensModel, studies: Sequence[TaskStudy], evaluations: Mapping[str, Evaluation], seconds: float
) -> Path:
    """Write `report.html` and `figures/` of the demonstration to the folder `out`.

    Raises:
        LensFVError: the folder cannot be written.
    """
    layers = {study.task.name: study.by_layer for study in studies}
    figures: dict[str, Figure] = {
        "conditions": plot_conditions(evaluations),
        "whole-answers": plot_conditions(evaluations, measure="exact_match"),
        "layers": plot_layers(layers, chosen={study.task.name: study.extracted.layer for study in studies}),
    }
    sections = [
        _section("demo", "What the vectors do", (figures["conditions"], figures["whole-answers"]), _accuracies(evaluations)),
        _section("demo", "Where the extracted vector works", (figures["layers"],)),
    ]
    for study in studies:
        decoded = {f"{study.task.name}, {kind}": words for kind, words in study.decoded.items()}
        drawn = {
            f"{study.slug}-heads": plot_heads(study.ranking),
            f"{study.slug}-top-heads": plot_top_heads(study.ranking),
            f"{study.slug}-words": plot_decoded(decoded),
        }
        figures |= drawn
        text = _block("demo", "relation", study=study, baseline=float(study.ranking.baseline.mean()))
        sections.append(Section(study.task.name, text, tuple(drawn.values()), html=True))
    save_figures(figures, out / "figures")
    intro = _block("demo", "intro", model=model, studies=studies, provenance=studies[0].ranking.provenance, seconds=seconds)
    title = f"Function vectors in {model.name}"
    return write_report(out / "report.html", title=title, intro_html=intro, sections=sections)


def write_dynamics_report(out: Path, run: FinetuneRun, trajectory: Trajectory, judged: Sequence[Verdict]) -> Path:
    """Write `report.html`, and each figure separately in `figures/`, to the folder `out`.

    Args:
        out: Output folder.
        run: Fine-tuning run.
        trajectory: Measurements at the run's checkpoints.
        judged: Verdicts at the end of the run.

    Raises:
        LensFVError: the folder cannot be written.
    """
    figures: dict[str, Figure] = {
        "recovery": plot_recovery(judged),
        "forgetting": plot_forgetting(trajectory),
        "abilities": plot_abilities(trajectory),
        "similarity": plot_vector_similarity(trajectory),
    }
    if len(trajectory.tasks) > 2:
        figures["plane"] = plot_vector_plane(trajectory)
    ranked = ~trajectory.effects[[0, -1]].isnan().flatten(2).any(-1).any(0)
    heads = {
        f"heads-{file_name(task)}": plot_head_change(trajectory, task)
        for task, both_ends in zip(trajectory.tasks, ranked.tolist(), strict=True)
        if both_ends
    }
    save_figures(figures | heads, out / "figures")
    sections = [
        _section("dynamics", "What became of the tasks", (figures["recovery"],), _verdicts(judged)),
        _section("dynamics", "Task after task", (figures["forgetting"],)),
        _section("dynamics", "Instruction and knowledge", (figures["abilities"],)),
        _section("dynamics", "Vectors", tuple(figures[name] for name in ("similarity", "plane") if name in figures)),
    ]
    if heads:
        sections.append(_section("dynamics", "Heads", tuple(heads.values())))
    intro = _block("dynamics", "intro", run=run, trajectory=trajectory)
    title = f"What fine-tuning did to {run.about['model']}"
    return write_report(out / "report.html", title=title, intro_html=intro, sections=sections)


def _section(report: str, title: str, figures: tuple[Figure, ...], table: Table | None = None) -> Section:
    """A section whose text is the block of its title."""
    return Section(title, _block(report, title.lower().replace(" ", "_")), figures, table, html=True)


def _block(report: str, name: str, **values: Any) -> str:
    """A block of the template REPORT.html.j2."""
    loader = PackageLoader("lens_fv.studies")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.get_template(f"{report}.html.j2")
    return "".join(template.blocks[name](template.new_context(values)))


def _accuracies(evaluations: Mapping[str, Evaluation]) -> Table:
    header = ["relation", "condition", "top-1", "low", "high", "top-3", "exact match", "log-probability", "items"]
    rows: list[list[object]] = [
        [name, r.condition, *r.top1[:3], r.top3.mean, r.exact_match.mean, r.logprob_per_answer.mean, r.top1.n]
        for name, evaluation in evaluations.items()
        for r in evaluation.results
    ]
    return header, rows


def _verdicts(judged: Sequence[Verdict]) -> Table:
    header = ["task", "verdict", "before", "after", "with its vector", "recovered", "p (lost)", "p (restored)"]
    header += ["knowledge (nats)", "low", "high", "items"]
    rows: list[list[object]] = []
    for verdict in judged:
        present = verdict.judgement != "absent"
        tests = [verdict.p_lost, verdict.p_restored] if present else ["", ""]
        recovery = verdict.recovery if present and verdict.before.mean > verdict.after.mean else ""
        accuracies = [verdict.before.mean, verdict.after.mean, verdict.with_vector.mean]
        rows.append([verdict.task, verdict.judgement, *accuracies, recovery, *tests, *verdict.knowledge])
    return header, rows
