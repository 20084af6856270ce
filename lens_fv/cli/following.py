"""The command that tracks a fine-tuning run: dynamics."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from lens_fv.cli.heads import Clean, Trials
from lens_fv.cli.instructions import Against
from lens_fv.cli.leaving import goes_on_in
from lens_fv.cli.options import AsJson, Device, Dtype, Seed, emit
from lens_fv.cli.vectors import Heads
from lens_fv.core.files import file_name
from lens_fv.core.tables import table_row

if TYPE_CHECKING:
    from lens_fv.dynamics import TaskProbe, Trajectory
    from lens_fv.finetuning import FinetuneRun
    from lens_fv.model import LensModel
    from lens_fv.tasks import Task

SCALES = (1.0, 2.0, 4.0)
"""Scales at which instruction vectors are tried on validation pairs."""


def dynamics(
    run: Annotated[Path, typer.Argument(help="Run folder written by `finetune`.")],
    task: Annotated[
        list[str] | None, typer.Option(help="Relation or file of pairs to probe in addition to the trained tasks; repeatable.")
    ] = None,
    counterpart: Against = "equiprobable",
    heads: Heads = 10,
    clean: Clean = 40,
    trials: Trials = 12,
    shots: Annotated[int, typer.Option(min=0, help="Number of demonstrations after the instruction.")] = 0,
    context: Annotated[int, typer.Option(min=1, help="Number of demonstrations in the in-context probes.")] = 5,
    items: Annotated[int, typer.Option(min=1, help="Maximum number of test pairs per task.")] = 40,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the report; default: RUN/dynamics.")] = None,
) -> None:
    """Measure every checkpoint of a run: task accuracy, vectors, and what the original vectors restore.

    Writes to the folder --out: report.html and its figures, dynamics.json, trajectory.safetensors, every task's
    vector and every measurement. Run it again to resume.
    """
    from lens_fv.dynamics import continual_metrics, track_checkpoints, verdicts
    from lens_fv.finetuning import FinetuneRun
    from lens_fv.model import load_model
    from lens_fv.studies.dynamics_report import write_dynamics_report
    from lens_fv.tasks import load_task

    the_run, folder = FinetuneRun(run), out or run / "dynamics"
    goes_on_in(folder)
    trained = the_run.load_tasks()
    asked = [*trained, *(each for each in map(load_task, task or ()) if each.name not in the_run.tasks)]
    lens = load_model(the_run.source, device=device, dtype=dtype or the_run.about["dtype"])
    drawn = {"counterpart": counterpart, "n_clean": clean, "n_trials": trials, "seed": seed}
    questions = {"heads": heads, "shots": shots, "context": context, "items": items}
    probes = [_asked(lens, each, folder, the_run, **questions, **drawn) for each in asked]
    trajectory = track_checkpoints(lens, the_run, probes, folder=folder / "moments", seed=seed, progress=True)
    file = trajectory.save(folder / "trajectory.safetensors")
    # In a mixture no task comes before another.
    metrics = continual_metrics(trajectory, the_run.tasks).to_json() if the_run.stages == the_run.tasks else None
    judged = verdicts(trajectory)
    table = Table("task", "verdict", "before", "after", "with vector", "knowledge", "cosine", title=str(run), box=None)
    for verdict, cosine in zip(judged, trajectory.similarity()[-1].tolist(), strict=True):
        shares = (f"{share.mean:.2f}" for share in (verdict.before, verdict.after, verdict.with_vector))
        table.add_row(verdict.task, verdict.judgement, *shares, f"{verdict.knowledge:+.2f}", f"{cosine:.3f}")
    payload = {
        "run": str(run),
        "model": lens.name,
        "verdicts": [_numbers(table_row(v) | {"recovery": v.recovery}) for v in judged],
        "metrics": metrics and _numbers(metrics),
        "moments": _moments(trajectory),
        "file": str(file),
    }
    page = write_dynamics_report(folder, the_run, trajectory, judged)
    absent = [v.task for v in judged if v.judgement == "absent"]
    note = [f"absent at the beginning, so neither judged nor averaged: {', '.join(absent)}"] if absent else []
    emit(payload | {"report": str(page)}, as_json, table, *note, f"report: {page}", out=folder / "dynamics.json")


def _asked(
    model: "LensModel",
    task: "Task",
    folder: Path,
    run: "FinetuneRun",
    *,
    heads: int,
    shots: int,
    context: int,
    items: int,
    seed: int,
    **drawn: Any,
) -> "TaskProbe":
    """Make the probe of a task from its vector before training; saves the ranking and the vector."""
    from lens_fv.dynamics import make_task_probe
    from lens_fv.heads import MediationOptions, make_instruction_prompts, rank_prompts
    from lens_fv.vectors import extract_instruction, sweep_injection

    contrast = make_instruction_prompts(model, task, n_shots=shots, template=run.template, seed=seed, **drawn)
    ranking = rank_prompts(model, task, contrast, MediationOptions(seed=seed, folder=folder / "rankings", progress=True))
    vector = extract_instruction(model, task, ranking, n_heads=heads, template=run.template)
    sweep = sweep_injection(model, task, vector, scales=SCALES, max_items=items, template=run.template)
    vector = vector.at(layer=sweep.best("logprob").layer, scale=sweep.best("logprob").scale)
    vector.save(folder / "vectors" / f"{file_name(task.name)}.safetensors")
    return make_task_probe(
        model,
        task,
        vector,
        contrast=contrast,
        n_shots=shots,
        n_context=context,
        max_items=items,
        template=run.template,
        seed=seed,
    )


def _moments(trajectory: "Trajectory") -> list[dict[str, Any]]:
    """Return one row per checkpoint and task; measures averaged over items have intervals."""
    from lens_fv.dynamics.trajectory import MEASURES

    own, control = trajectory.head_similarity()
    overlaps = trajectory.head_overlaps()
    curves = {(measure, task): trajectory.curve(measure, task) for measure in MEASURES for task in trajectory.tasks}
    columns = {
        "cosine": trajectory.similarity(),
        "distance": trajectory.distance(),
        "head_cosine": own.mean(-1),
        "control_head_cosine": control.mean(-1),
    }
    return [
        {
            "moment": name,
            "step": step,
            "task": task,
            **{measure: (e := curves[measure, task].get(step)) and e._asdict() for measure in MEASURES},
            **{key: float(value[m, t]) for key, value in columns.items()},
            "head_overlap": (overlap := overlaps[m][t]) and table_row(overlap),
        }
        for m, (name, step) in enumerate(zip(trajectory.moments, trajectory.steps, strict=True))
        for t, task in enumerate(trajectory.tasks)
    ]


def _numbers(values: dict[str, Any]) -> dict[str, Any]:
    """Replace NaN by None, because JSON has no NaN."""
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in values.items()}
