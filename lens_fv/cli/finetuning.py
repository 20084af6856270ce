"""Commands for fine-tuning: finetune, interpolate, export, dynamics."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import lens_fv as fv
from lens_fv.cli.command import Options, OptionsOf, chosen, command
from lens_fv.cli.inputs import MODEL, TASK, ModelName, Placing, RunInput, TaskInput, VectorInput
from lens_fv.cli.leaving import resumes_in
from lens_fv.cli.output import Printout, table, write_json
from lens_fv.core.tables import table_rows

Guide = Literal["iv", "fv", "kl", "l2", "lwf", "swap", "swap-heads", "swap-kl"]


@command
def finetune(
    *,
    model: ModelName = MODEL,
    placing: Placing,
    task: Sequence[str] = (TASK,),
    options: Annotated[Options, OptionsOf("lens_fv:FinetuneConfig")],
    guide: Guide | None = None,
    vector: Sequence[VectorInput] = (),
    random_vectors: bool = False,
    other_heads: bool = False,
    template: Literal["todd", "arrow", "input-output", "natural"] = "todd",
    out: Path = Path("finetune-run"),
) -> Printout:
    """Fine-tune on one instructed task after another, or on all at once, with checkpoints.

    Writes to the folder --out: run.json, a folder with the PEFT adapter (or all weights) for every checkpoint, and a copy of
    the vectors that guided it. Run it again with the same options to resume.

    Args:
        task: Relation or file of pairs; repeatable, tasks are trained in this order.
        guide: Regularizer that preserves earlier abilities: the instruction-vector papers' losses (iv, fv); KL divergence
            from the model without updates (kl) or before each task (lwf); squared distance of all head outputs (l2); under
            swapped instructions, the divergence (swap), the distance of a vector's heads (swap-heads), or the
            divergence under both swapped and own instructions (swap-kl).
        vector: Vector file written by `lens-fv iv extract`, one per task; for iv, fv and swap-heads.
        random_vectors: Guide by random vectors of the same norms, as a control.
        other_heads: Guide by other heads of the same layers, as a control for heads.
        template: Prompt template.
        out: Run folder to write.
    """
    from lens_fv.finetuning.regularizers import PRESETS
    from lens_fv.vectors import other_heads as with_other_heads, random_like

    preset = PRESETS[guide] if guide else None
    settings = fv.FinetuneConfig(**options, guide=preset, template=fv.tasks.TEMPLATES[template])
    tasks = [fv.load_task(name) for name in task]
    vectors = {guiding.provenance.task: guiding for guiding in vector}
    if random_vectors:
        vectors = {name: random_like(guiding, seed=settings.seed, heads=True) for name, guiding in vectors.items()}
    if other_heads:
        vectors = {name: with_other_heads(guiding, seed=settings.seed) for name, guiding in vectors.items()}
    resumes_in(out)
    run = fv.finetune(model, tasks, out, settings, vectors=vectors, **placing, progress=True)
    rows = [{"checkpoint": c.name, "task": c.task, "steps": c.total, "folder": c.folder} for c in run.checkpoints]
    payload = {"model": run.about["model"], "tasks": run.tasks, "update": settings.update, "checkpoints": rows, "run": out}
    view = table(rows, title=f"{run.about['model']}: {', '.join(run.tasks)}", without=("task", "folder"))
    return Printout(payload, view, f"written to {out}; `lens-fv dynamics {out}` tracks it")


@command
def interpolate(
    run: RunInput,
    *,
    options: Annotated[Options, OptionsOf("lens_fv.finetuning:interpolate_weights")],
    out: Annotated[Path, "New folder for the interpolated run."] = Path("interpolated-run"),
) -> Printout:
    """Interpolate every checkpoint's weights with those before fine-tuning (WiSE-FT).

    Writes a run for `dynamics` and `export` to the folder --out.
    """
    interpolated = fv.finetuning.interpolate_weights(run, out, **options)
    names = [checkpoint.name for checkpoint in interpolated.checkpoints]
    share = chosen(options, "lens_fv.finetuning:interpolate_weights", "share")
    payload = {"model": run.about["model"], "share": share, "run": out, "checkpoints": names}
    return Printout(payload, f"{len(names)} checkpoints, {share:g} of the way", f"written to {out}")


@command
def export(
    run: RunInput,
    *,
    checkpoint: Annotated[str | None, "Checkpoint name, such as 1-antonym/16; default: the last one."] = None,
    options: Annotated[Options, OptionsOf("lens_fv.finetuning:export_checkpoint", leave_out=("checkpoint",))],
    out: Annotated[Path, "New folder; its name becomes the model's."] = Path("finetuned"),
) -> Printout:
    """Export a checkpoint as a model that every --model accepts.

    Writes to the folder --out: the weights with low-rank updates merged, and the tokenizer, in transformers' format.
    """
    exported, model = run.checkpoint(checkpoint), run.about["model"]
    folder = fv.finetuning.export_checkpoint(run, out, exported, **options)
    payload = {"model": model, "checkpoint": exported.name, "folder": folder}
    return Printout(payload, f"{model} at {exported.name}", f"written to {folder}")


@command
def dynamics(
    run: RunInput,
    *,
    task: Annotated[
        Sequence[TaskInput], "Relation or file of pairs to measure in addition to the trained tasks; repeatable."
    ] = (),
    options: Annotated[Options, OptionsOf("lens_fv.studies.checkpoints:measure_run")],
    out: Annotated[Path | None, "Folder for the report; default: RUN/dynamics."] = None,
) -> Printout:
    """Measure every checkpoint of a run: task accuracy, vectors, and what the original vectors restore.

    Writes to the folder --out: report.html and its figures, dynamics.json, trajectory.safetensors, every task's
    vector and every measurement. Run it again to resume.
    """
    from lens_fv.studies.checkpoints import measure_run
    from lens_fv.studies.reports import write_dynamics_report

    folder = out or run.folder / "dynamics"
    resumes_in(folder)
    trajectory = measure_run(run, folder, others=task, **options, progress=True)
    file = trajectory.save(folder / "trajectory.safetensors")
    verdicts = fv.verdicts(trajectory)
    rows = [row | {"recovery": v.recovery} for row, v in zip(table_rows(verdicts), verdicts, strict=True)]
    is_sequence = run.stages == run.tasks  # in a mixture no task comes before another
    payload = {
        "run": run.folder,
        "model": trajectory.provenance.model,
        "verdicts": rows,
        "metrics": fv.dynamics.continual_metrics(trajectory, run.tasks) if is_sequence else None,
        "measurements": trajectory.records(),
        "file": file,
        "report": write_dynamics_report(folder, run, trajectory, verdicts),
    }
    write_json(folder / "dynamics.json", payload)
    cosines = trajectory.similarity()[-1].tolist()
    view = table([row | {"cosine": cosine} for row, cosine in zip(rows, cosines, strict=True)], title=str(run.folder))
    absent = [verdict.task for verdict in verdicts if verdict.judgement == "absent"]
    note = [f"absent at the beginning, so neither judged nor averaged: {', '.join(absent)}"] if absent else []
    return Printout(payload, view, *note, f"report: {payload['report']}")
