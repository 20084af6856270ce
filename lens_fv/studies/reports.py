"""The HTML reports of the demonstration and of a tracked fine-tuning run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
from lens_fv.plotting.report import Table, html_templates
from lens_fv.studies.demo import TaskStudy


def write_demo_report(
    out: Path, model: LensModel, studies: Sequence[TaskStudy], evaluations: Mapping[str, Evaluation], seconds: float
) -> Path:
    """Write `report.html` and `figures/` of the demonstration to the folder `out`.

    Raises:
        LensFVError: the folder cannot be written.
    """
    layers = {study.task.name: study.by_layer for study in studies}
    chosen = {study.task.name: study.extracted.layer for study in studies}
    whole_answers = plot_conditions(evaluations, measure="exact_match")
    conditions = {"conditions": plot_conditions(evaluations), "whole-answers": whole_answers}
    sections = [
        _section("demo", "What the vectors do", conditions, _accuracies(evaluations)),
        _section("demo", "Where the extracted vector works", {"layers": plot_layers(layers, chosen=chosen)}),
    ]
    for study in studies:
        decoded = {f"{study.task.name}, {kind}": words for kind, words in study.decoded.items()}
        figures = {
            f"{study.slug}-heads": plot_heads(study.ranking),
            f"{study.slug}-top-heads": plot_top_heads(study.ranking),
            f"{study.slug}-words": plot_decoded(decoded),
        }
        text = _block("demo", "relation", study=study, baseline=float(study.ranking.baseline.mean()))
        sections.append(Section(study.task.name, text, figures, html=True))
    intro = _block("demo", "intro", model=model, studies=studies, provenance=studies[0].ranking.provenance, seconds=seconds)
    return _write(out, f"Function vectors in {model.name}", intro, sections)


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
    vectors = {"similarity": plot_vector_similarity(trajectory)}
    if len(trajectory.tasks) > 2:
        vectors["plane"] = plot_vector_plane(trajectory)
    sections = [
        _section("dynamics", "What became of the tasks", {"recovery": plot_recovery(judged)}, _verdicts(judged)),
        _section("dynamics", "Task after task", {"forgetting": plot_forgetting(trajectory)}),
        _section("dynamics", "Instruction and knowledge", {"abilities": plot_abilities(trajectory)}),
        _section("dynamics", "Vectors", vectors),
    ]
    ranked = ~trajectory.effects[[0, -1]].isnan().flatten(2).any(-1).any(0)
    heads = {
        f"heads-{file_name(task)}": plot_head_change(trajectory, task)
        for task, both_ends in zip(trajectory.tasks, ranked.tolist(), strict=True)
        if both_ends
    }
    if heads:
        sections.append(_section("dynamics", "Heads", heads))
    intro = _block("dynamics", "intro", run=run, trajectory=trajectory)
    return _write(out, f"What fine-tuning did to {run.about['model']}", intro, sections)


def _write(out: Path, title: str, intro: str, sections: Sequence[Section]) -> Path:
    """Write the report, and each of its figures separately."""
    save_figures({name: figure for section in sections for name, figure in section.figures.items()}, out / "figures")
    return write_report(out / "report.html", title=title, intro_html=intro, sections=sections)


def _section(report: str, title: str, figures: Mapping[str, Figure], table: Table | None = None) -> Section:
    """A section whose text is the block of its title."""
    return Section(title, _block(report, title.lower().replace(" ", "_")), figures, table, html=True)


def _block(report: str, name: str, **values: Any) -> str:
    """A block of the template REPORT.html.j2."""
    template = html_templates("lens_fv.studies").get_template(f"{report}.html.j2")
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
