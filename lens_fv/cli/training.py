"""Commands for fine-tuning: finetune, average, export."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from lens_fv.cli.leaving import goes_on_in
from lens_fv.cli.options import DEFAULT_MODEL, AsJson, Device, Dtype, ModelName, Seed, emit

Tasks = Annotated[
    list[str] | None,
    typer.Option(
        "--task", help="Relation or file of pairs; repeatable, tasks are trained in this order; default: present-past."
    ),
]


def finetune(
    model: ModelName = DEFAULT_MODEL,
    task: Tasks = None,
    method: Annotated[
        Literal["lora", "full"], typer.Option(help="Trained parameters: low-rank updates (PEFT), or all weights.")
    ] = "lora",
    rank: Annotated[int, typer.Option(min=1, help="Rank of the low-rank updates.")] = 8,
    learning_rate: Annotated[float, typer.Option(min=0, help="Constant learning rate of AdamW.")] = 1e-4,
    batch: Annotated[int, typer.Option(min=1, help="Number of examples per step.")] = 32,
    epochs: Annotated[int, typer.Option(min=1, help="Number of passes over each task's examples.")] = 1,
    examples: Annotated[int, typer.Option(min=1, help="Number of examples per task.")] = 500,
    shots: Annotated[int, typer.Option(min=0, help="Number of demonstrations in each example.")] = 0,
    mixed: Annotated[
        bool, typer.Option("--mixed", help="Train on all tasks shuffled together instead of one after another.")
    ] = False,
    checkpoints: Annotated[int, typer.Option(min=1, help="Number of checkpoints kept per task, or of the mixture.")] = 2,
    guide: Annotated[
        Literal["iv", "fv", "kl", "l2", "lwf", "swap", "swap-heads", "swap-kl"] | None,
        typer.Option(
            help="Regularizer that preserves earlier abilities: the instruction-vector papers' losses (iv, fv); KL divergence "
            "from the model without updates (kl) or before each task (lwf); squared distance of all head outputs (l2); under "
            "swapped instructions, the divergence (swap), the distance of a vector's heads (swap-heads), or the "
            "divergence under both swapped and own instructions (swap-kl)."
        ),
    ] = None,
    vector: Annotated[
        list[Path] | None,
        typer.Option(help="Vector file written by `iv extract`, one per task; for iv, fv and swap-heads."),
    ] = None,
    random_vectors: Annotated[
        bool, typer.Option("--random-vectors", help="Guide by random vectors of the same norms, as a control.")
    ] = False,
    by_other_heads: Annotated[
        bool, typer.Option("--other-heads", help="Guide by other heads of the same layers, as a control for heads.")
    ] = False,
    replay: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of each task's examples taken from earlier tasks, 0 to 0.9.")
    ] = 0.0,
    ewc: Annotated[float, typer.Option(min=0, help="Weight of elastic weight consolidation.")] = 0.0,
    fisher: Annotated[
        Literal["batch", "example"],
        typer.Option(help="Gradients that --ewc squares to weigh parameters: per batch or per example."),
    ] = "batch",
    orthogonal: Annotated[
        float, typer.Option(min=0, help="Weight of O-LoRA: orthogonal low-rank updates, one set per task.")
    ] = 0.0,
    template: Annotated[Literal["todd", "arrow", "input-output", "natural"], typer.Option(help="Prompt template.")] = "todd",
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    out: Annotated[Path, typer.Option("--out", help="Run folder to write.")] = Path("finetune-run"),
) -> None:
    """Fine-tune on one instructed task after another, or on all at once, with checkpoints.

    Writes to the folder --out: run.json, a folder with the PEFT adapter (or all weights) for every checkpoint, and a copy of
    the vectors that guided it. Run it again with the same options to resume.
    """
    from lens_fv.finetuning import FinetuneConfig, finetune as train
    from lens_fv.finetuning.regularizers import PRESETS
    from lens_fv.tasks import TEMPLATES, load_task
    from lens_fv.vectors import FunctionVector, other_heads, random_like

    settings = FinetuneConfig(
        update=method,
        rank=rank,
        learning_rate=learning_rate,
        batch_size=batch,
        epochs=epochs,
        n_examples=examples,
        n_shots=shots,
        mixed=mixed,
        n_checkpoints=checkpoints,
        guide=PRESETS[guide] if guide else None,
        replay=replay,
        ewc=ewc,
        fisher=fisher,
        orthogonal=orthogonal,
        template=TEMPLATES[template],
        seed=seed,
    )
    tasks = [load_task(name) for name in task or ["present-past"]]
    vectors = {each.provenance.task: each for each in map(FunctionVector.load, vector or ())}
    if random_vectors:
        vectors = {name: random_like(each, seed=seed, heads=True) for name, each in vectors.items()}
    if by_other_heads:
        vectors = {name: other_heads(each, seed=seed) for name, each in vectors.items()}
    goes_on_in(out)
    run = train(model, tasks, out, settings, vectors=vectors, device=device, dtype=dtype, progress=True)
    found = [{"checkpoint": c.name, "task": c.task, "steps": c.total, "folder": str(c.folder)} for c in run.checkpoints]
    table = Table("checkpoint", "steps", title=f"{run.about['model']}: {', '.join(run.tasks)}", title_justify="left", box=None)
    for row in found:
        table.add_row(row["checkpoint"], str(row["steps"]))
    payload = {"model": run.about["model"], "tasks": run.tasks, "update": method, "checkpoints": found, "run": str(out)}
    emit(payload, as_json, table, f"written to {out}; `lens-fv dynamics {out}` follows it")


def export(
    run: Annotated[Path, typer.Argument(help="Run folder written by `finetune`.")],
    checkpoint: Annotated[
        str | None, typer.Option(help="Checkpoint name, such as 1-antonym/16; default: the last one.")
    ] = None,
    as_json: AsJson = False,
    seed: Seed = 0,  # noqa: ARG001 - nothing is random here; every command has it
    device: Device = None,  # noqa: ARG001 - files only
    dtype: Dtype = None,
    out: Annotated[Path, typer.Option("--out", help="New folder; its name becomes the model's.")] = Path("finetuned"),
) -> None:
    """Export a checkpoint as a model that every --model accepts.

    Writes to the folder --out: the weights with low-rank updates merged, and the tokenizer, in transformers' format.
    """
    from lens_fv.finetuning import FinetuneRun, export_checkpoint

    the_run = FinetuneRun(run)
    at = the_run.checkpoint(checkpoint)
    folder = export_checkpoint(the_run, out, at, dtype=dtype)
    payload = {"model": the_run.about["model"], "checkpoint": at.name, "folder": str(folder)}
    emit(payload, as_json, f"{the_run.about['model']} at {at.name}", f"written to {folder}")


def average(
    run: Annotated[Path, typer.Argument(help="Run folder written by `finetune` with low-rank updates.")],
    share: Annotated[float, typer.Option(help="Share of the fine-tuned weights, above 0 and at most 1.")] = 0.5,
    as_json: AsJson = False,
    seed: Seed = 0,  # noqa: ARG001 - nothing is random here; every command has it
    device: Device = None,  # noqa: ARG001 - files only
    dtype: Dtype = None,  # noqa: ARG001 - files only
    out: Annotated[Path, typer.Option("--out", help="New folder for the averaged run.")] = Path("averaged-run"),
) -> None:
    """Interpolate every checkpoint's weights with those before fine-tuning (WiSE-FT).

    Writes a run for `dynamics` and `export` to the folder --out.
    """
    from lens_fv.finetuning import FinetuneRun, interpolate_weights as averaged

    made = averaged(FinetuneRun(run), out, share=share)
    payload = {"model": made.about["model"], "share": share, "run": str(out), "checkpoints": [c.name for c in made.checkpoints]}
    emit(payload, as_json, f"{len(made.checkpoints)} checkpoints, {share:g} of the way", f"written to {out}")
