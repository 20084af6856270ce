"""The commands `lens-fv bench tune`, `guided` and `teach`: what training costs on this machine."""

from typing import Annotated

import typer
from rich.table import Table

from lens_fv.cli.bench import Model, Out, Repeats, emit_values, open_
from lens_fv.cli.knowledge import Entities
from lens_fv.cli.options import DEFAULT_MODEL, AsJson, Device, Dtype, Seed, TaskName, emit


def tune(
    model: Model = DEFAULT_MODEL,
    task: TaskName = "present-past",
    pairs: Annotated[int, typer.Option(min=1, help="Training pairs.")] = 20,
    steps: Annotated[int, typer.Option(min=1, help="Of Adam.")] = 40,
    layer: Annotated[int | None, typer.Option(help="Where the vector is added; default: the middle.")] = None,
    vectors: Annotated[int, typer.Option(min=1, help="Tuned side by side, each on pairs of its own.")] = 1,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    out: Out = None,
) -> None:
    """Tune a vector, or several side by side: steps through the layers above it against full forward and backward passes.

    Writes nothing unless --out is given.
    """
    from lens_fv.core.progress import progress_bar
    from lens_fv.studies.bench import bench_tune

    subject, the_task = open_(model, task, 0, None, device, dtype, seed)
    with progress_bar("bench", 2 * steps, show=True) as tick:
        found = bench_tune(subject, the_task, pairs=pairs, steps=steps, layer=layer, vectors=vectors, seed=seed, tick=tick)
    emit_values(found.to_json(), as_json, out)


def guided(
    model: Model = DEFAULT_MODEL,
    method: Annotated[
        list[str] | None,
        typer.Option(help="Several times: a preset of guides, ewc, o-lora or full. Default: iv, fv, kl, crossed, crossed-kl."),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Of the batch.")] = 8,
    tokens: Annotated[int, typer.Option(min=5, help="Of each row.")] = 32,
    repeats: Repeats = 5,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    out: Out = None,
) -> None:
    """Train a batch by low-rank updates, plainly and in ways that keep abilities: time and peak memory of a step.

    Writes nothing unless --out is given.
    """
    from lens_fv.core.progress import progress_bar
    from lens_fv.studies.bench import bench_guided

    names = method or ["iv", "fv", "kl", "crossed", "crossed-kl"]
    subject, _ = open_(model, "present-past", 0, None, device, dtype, seed)
    with progress_bar("bench", repeats, show=True) as tick:
        found = bench_guided(subject, methods=names, rows=rows, tokens=tokens, repeats=repeats, seed=seed, tick=tick)
    table = Table("method", "a step", "beside lora", "peak", "beside lora", box=None, pad_edge=False, header_style="bold")
    for step in found.steps:
        peak = f"{step.bytes / 2**20:.0f} MiB"
        table.add_row(step.method, f"{step.seconds:.3f} s", f"{step.time_ratio:.2f}", peak, f"{step.memory_ratio:.2f}")
    emit(found.to_json(), as_json, table, out=out)


def teach(
    model: Model = DEFAULT_MODEL,
    entities: Entities = "invented",
    number: Annotated[int, typer.Option(min=1, help="The first so many of them, each taught alone.")] = 3,
    sentences: Annotated[int, typer.Option(min=1, help="That the model writes about each.")] = 5,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    out: Out = None,
) -> None:
    """Teach one entity by distillation, and by plain fine-tuning on the same sentences: time and peak memory.

    Writes nothing unless --out is given.
    """
    from lens_fv.core.progress import progress_bar
    from lens_fv.errors import LensFVError
    from lens_fv.knowledge import load_entities
    from lens_fv.studies.bench import bench_teach

    if model.startswith("random:"):
        raise LensFVError(f"teach {model}: random weights write no sentences; name a model that was trained")
    subject, _ = open_(model, "present-past", 0, None, device, dtype, seed)
    taught = load_entities(entities)[:number]
    with progress_bar("bench", len(taught), show=True) as tick:
        found = bench_teach(subject, taught, sentences=sentences, seed=seed, tick=tick)
    table = Table("way", "an entity", "beside plain", "peak", "beside plain", box=None, pad_edge=False, header_style="bold")
    table.add_row("writing sentences", f"{found.writing_s:.1f} s")
    for way in found.ways:
        peak = f"{way.bytes / 2**20:.0f} MiB"
        table.add_row(way.name, f"{way.seconds:.1f} s", f"{way.time_ratio:.2f}", peak, f"{way.memory_ratio:.2f}")
    emit(found.to_json(), as_json, table, out=out)
