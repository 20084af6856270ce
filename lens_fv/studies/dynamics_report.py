"""The HTML report of a tracked fine-tuning run."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from plotly.graph_objects import Figure

from lens_fv.core.files import file_name
from lens_fv.dynamics import Trajectory, Verdict
from lens_fv.finetuning import FinetuneRun
from lens_fv.plotting import (
    Section,
    plot_abilities,
    plot_forgetting,
    plot_head_change,
    plot_recovery,
    plot_vector_plane,
    plot_vector_similarity,
    save_figures,
    write_report,
)


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
    heads = {
        f"heads-{file_name(task)}": plot_head_change(trajectory, task) for task in trajectory.tasks if _ranked(trajectory, task)
    }
    save_figures(figures | heads, out / "figures")
    sections = [
        Section("What became of the tasks", _VERDICTS, (figures["recovery"],), _table(judged)),
        Section("Task after task", _MATRIX, (figures["forgetting"],)),
        Section("Instruction and knowledge", _ABILITIES, (figures["abilities"],)),
        Section("Vectors", _VECTORS, tuple(figures[name] for name in ("similarity", "plane") if name in figures)),
    ]
    if heads:
        sections.append(Section("Heads", _HEADS, tuple(heads.values())))
    settings = run.about["settings"]
    asked = ", ".join(task for task in trajectory.tasks if task not in run.tasks)
    intro = (
        f"<p><b>{escape(run.about['model'])}</b> fine-tuned on {escape(', then '.join(run.stages))} "
        f"({escape(settings['update'])}, {settings['n_examples']} examples of each task, {trajectory.steps[-1]} steps)"
        f"{escape(f'; also evaluated: {asked}' if asked else '')}.</p>"
        "<p>Made by <code>lens-fv dynamics</code>; every number is in <code>dynamics.json</code>.</p>"
    )
    title = f"What fine-tuning did to {run.about['model']}"
    return write_report(out / "report.html", title=title, intro_html=intro, sections=sections)


_VERDICTS = """Accuracy of test items after the instruction, answers written whole by greedy decoding. Vectors are those of \
the beginning, added to the instructed prompts of the end.

Suppressed: accuracy was lost, the knowledge is kept and the task's vector restores accuracy. Overwritten: lost, the knowledge \
fell, and the vector restores nothing. Undecided: lost, and neither is shown. Absent: at the beginning the task was not there, \
the 95 % interval of its accuracy not being above what the most frequent answer would get; it is not judged."""

_MATRIX = "Accuracy of every task at the beginning and wherever the training of a task ends."

_ABILITIES = """How much likelier the answers became, with 95 % intervals over items: after the instruction, and in a cloze \
that asks for the same without one. A task whose instruction line falls while its cloze line stays is no longer called up."""

_VECTORS = """Cosine of each vector to what it was at the beginning; of the residual stream, where the vector is added, to the \
vector of the beginning; and of what single heads write to what they wrote. All through the output projections of the \
beginning."""

_HEADS = """Mean indirect effect of every head: its mean output after the instruction, put into prompts with a counterpart; \
before, after, and the difference."""


def _ranked(trajectory: Trajectory, task: str) -> bool:
    return not bool(trajectory.effects[[0, -1], trajectory.tasks.index(task)].isnan().any())


def _table(judged: Sequence[Verdict]) -> tuple[list[str], list[list[object]]]:
    header = ["task", "verdict", "before", "after", "with its vector", "recovered", "p (lost)", "p (restored)"]
    header += ["knowledge (nats)", "low", "high", "items"]
    rows: list[list[object]] = [
        [
            v.task,
            v.judgement,
            v.before.mean,
            v.after.mean,
            v.with_vector.mean,
            v.recovery if v.before.mean > v.after.mean and v.judgement != "absent" else "",
            *((v.p_lost, v.p_restored) if v.judgement != "absent" else ("", "")),
            *v.knowledge,
        ]
        for v in judged
    ]
    return header, rows
