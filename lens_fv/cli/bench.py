"""The commands `lens-fv bench ...`: speed, exactness and memory on this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from lens_fv.cli.options import DEFAULT_MODEL, AsJson, Device, Dtype, Seed, Shots, TaskName, emit

if TYPE_CHECKING:
    from lens_fv.studies.bench import Subject
    from lens_fv.tasks import Task

bench = typer.Typer(help="Measure speed, exactness and memory on this machine.", no_args_is_help=True)
Model = Annotated[
    str, typer.Option("--model", help="Model, or random:SHAPE for random weights (smollm2-135m, llama-3.2-1b, llama-3-8b).")
]
Tokens = Annotated[
    int | None,
    typer.Option(
        "--tokens",
        min=2,
        help="Number of random tokens to run on; default: a prompt of the task, or random tokens of similar length.",
    ),
]
Repeats = Annotated[int, typer.Option("--repeats", min=1, help="Number of runs; the median is reported.")]
Out = Annotated[Path | None, typer.Option("--out", help="File for the JSON object; default: not written.")]
Sample = Annotated[
    int, typer.Option("--sample", min=1, help="Number of edits on which the plain loop is timed, extrapolated to all.")
]


@bench.command()
def engine(
    model: Model = DEFAULT_MODEL,
    task: TaskName = "present-past",
    shots: Shots = 10,
    tokens: Tokens = None,
    sample: Sample = 12,
    repeats: Repeats = 5,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    out: Out = None,
) -> None:
    """Time patching every head of a few-shot prompt: the engine against a plain TransformerLens loop.

    Writes nothing unless --out is given.
    """
    from lens_fv.core.progress import progress_bar
    from lens_fv.studies.bench import bench_engine

    subject, _ = open_(model, task, shots, tokens, device, dtype, seed)
    with progress_bar("bench", sample + repeats, show=True) as tick:
        found = bench_engine(subject, sample=sample, repeats=repeats, seed=seed, tick=tick)
    emit_values(found.to_json(), as_json, out)


@bench.command()
def sweep(
    model: Model = DEFAULT_MODEL,
    task: TaskName = "present-past",
    shots: Shots = 10,
    tokens: Tokens = None,
    sample: Sample = 6,
    repeats: Repeats = 5,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    out: Out = None,
) -> None:
    """Time adding a vector at every layer and five scales: the engine against one forward pass per cell.

    Writes nothing unless --out is given.
    """
    from lens_fv.core.progress import progress_bar
    from lens_fv.studies.bench import bench_sweep

    subject, _ = open_(model, task, shots, tokens, device, dtype, seed)
    with progress_bar("bench", sample + repeats, show=True) as tick:
        found = bench_sweep(subject, sample=sample, repeats=repeats, seed=seed, tick=tick)
    emit_values(found.to_json(), as_json, out)


@bench.command()
def compose(
    model: Model = DEFAULT_MODEL,
    task: TaskName = "antonym",
    vectors: Annotated[int, typer.Option(min=1, help="Number of vectors in the basis, with random directions.")] = 100,
    layer: Annotated[int | None, typer.Option(help="Layer after which vectors are added; default: the middle one.")] = None,
    tokens: Tokens = None,
    sample: Sample = 12,
    repeats: Repeats = 5,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    out: Out = None,
) -> None:
    """Time scoring a basis of vectors on one pair: the engine against one forward pass per vector.

    Writes nothing unless --out is given.
    """
    from lens_fv.core.progress import progress_bar
    from lens_fv.studies.bench import bench_compose

    subject, _ = open_(model, task, 0, tokens, device, dtype, seed)
    with progress_bar("bench", sample + repeats, show=True) as tick:
        found = bench_compose(subject, vectors=vectors, layer=layer, sample=sample, repeats=repeats, seed=seed, tick=tick)
    emit_values(found.to_json(), as_json, out)


@bench.command()
def memory(
    model: Model = DEFAULT_MODEL,
    task: TaskName = "present-past",
    shots: Annotated[
        list[int] | None, typer.Option(help="Number of demonstrations; repeatable; default: 5, 10, 20, 40, 60.")
    ] = None,
    repeats: Repeats = 3,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    out: Out = None,
) -> None:
    """Measure memory and time of patching every head as prompts grow, relative to one plain forward pass.

    Writes nothing unless --out is given.
    """
    from lens_fv.core.progress import progress_bar
    from lens_fv.studies.bench import bench_memory
    from lens_fv.studies.bench.subject import few_shot_tokens

    counts = shots or [5, 10, 20, 40, 60]
    subject, the_task = open_(model, task, counts[0], None, device, dtype, seed)
    if the_task is None:
        prompts = [tuple(i % subject.model.d_vocab for i in range(10 * (n + 1))) for n in counts]
    else:
        prompts = [few_shot_tokens(subject.model, the_task, n, seed) for n in counts]
    with progress_bar("bench", repeats * len(prompts), show=True) as tick:
        found = bench_memory(subject, prompts, repeats=repeats, seed=seed, tick=tick)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in (
        "tokens",
        "plain forward",
        "all heads",
        "in plain forwards",
        "peak, plain",
        "peak, all heads",
        "ratio",
        "planned",
    ):
        table.add_column(column, justify="right")
    mib = 2**20
    for g in found.measures["growth"]:
        table.add_row(
            str(g["prompt_tokens"]),
            f"{g['plain_forward_s']:.3f} s",
            f"{g['engine_s']:.3f} s",
            f"{g['plain_forwards']:.2f}",
            f"{g['plain_bytes'] / mib:.0f} MiB",
            f"{g['engine_bytes'] / mib:.0f} MiB",
            f"{g['memory_ratio']:.2f}",
            f"{g['planned_bytes'] / mib:.0f} MiB",
        )
    emit(found.to_json(), as_json, table, out=out)


def open_(
    model: str, task: str, shots: int, tokens: int | None, device: str | None, dtype: str | None, seed: int
) -> "tuple[Subject, Task | None]":
    """Open the model with a prompt, and the task (None with random weights)."""
    from lens_fv.studies.bench import open_subject
    from lens_fv.tasks import load_task

    the_task = None if model.startswith("random:") else load_task(task)
    opened = open_subject(model, the_task, n_shots=shots, n_tokens=tokens, device=device, dtype=dtype, seed=seed)
    return opened, the_task


def emit_values(found: dict[str, Any], as_json: bool, out: Path | None) -> None:
    """Print named values one per line, or as JSON."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in found.items():
        table.add_row(name, f"{value:.3g}" if isinstance(value, float) else str(value))
    emit(found, as_json, table, out=out)
