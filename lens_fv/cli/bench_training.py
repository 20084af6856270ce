"""The commands `lens-fv bench tune`, `guided` and `teach`: cost of training on this machine."""

from typing import Annotated

import typer
from rich.table import Table

from lens_fv.cli.bench import Model, Out, Repeats, emit_values, open_
from lens_fv.cli.knowledge import Entities
from lens_fv.cli.options import DEFAULT_MODEL, AsJson, Device, Dtype, Seed, TaskName, emit


def tune(
    model: Model = DEFAULT_MODEL,
    task: TaskName = "present-past",
    pairs: Annotated[int, typer.Option(min=1, help="Number of training pairs.")] = 20,
    steps: Annotated[int, typer.Option(min=1, help="Number of Adam steps.")] = 40,
    layer: Annotated[int | None, typer.Option(help="Layer after which the vector is added; default: the middle one.")] = None,
    vectors: Annotated[int, typer.Option(min=1, help="Number of vectors tuned in parallel, each on its own pairs.")] = 1,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    out: Out = None,
) -> None:
    """Time tuning of one or more vectors: steps through the layers above against full forward and backward passes.

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
        typer.Option(help="Method: a guide preset, ewc, o-lora or full; repeatable; default: iv, fv, kl, swap, swap-kl."),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Number of rows per batch.")] = 8,
    tokens: Annotated[int, typer.Option(min=5, help="Number of tokens per row.")] = 32,
    repeats: Repeats = 5,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    out: Out = None,
) -> None:
    """Measure time and peak memory of a training step: plain low-rank updates against regularized ones.

    Writes nothing unless --out is given.
    """
    from lens_fv.core.progress import progress_bar
    from lens_fv.studies.bench import bench_guided

    names = method or ["iv", "fv", "kl", "swap", "swap-kl"]
    subject, _ = open_(model, "present-past", 0, None, device, dtype, seed)
    with progress_bar("bench", repeats, show=True) as tick:
        found = bench_guided(subject, methods=names, rows=rows, tokens=tokens, repeats=repeats, seed=seed, tick=tick)
    table = Table("method", "a step", "vs. lora", "peak", "vs. lora", box=None, pad_edge=False, header_style="bold")
    for step in found.steps:
        peak = f"{step.bytes / 2**20:.0f} MiB"
        table.add_row(step.method, f"{step.seconds:.3f} s", f"{step.time_ratio:.2f}", peak, f"{step.memory_ratio:.2f}")
    emit(found.to_json(), as_json, table, out=out)


def teach(
    model: Model = DEFAULT_MODEL,
    entities: Entities = "invented",
    number: Annotated[int, typer.Option(min=1, help="Number of entities to teach, each alone, from the first on.")] = 3,
    sentences: Annotated[int, typer.Option(min=1, help="Number of sentences written about each entity.")] = 5,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    out: Out = None,
) -> None:
    """Measure time and peak memory of teaching an entity: distillation against plain fine-tuning.

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
    table = Table("way", "an entity", "vs. plain", "peak", "vs. plain", box=None, pad_edge=False, header_style="bold")
    table.add_row("writing sentences", f"{found.writing_s:.1f} s")
    for way in found.ways:
        peak = f"{way.bytes / 2**20:.0f} MiB"
        table.add_row(way.name, f"{way.seconds:.1f} s", f"{way.time_ratio:.2f}", peak, f"{way.memory_ratio:.2f}")
    emit(found.to_json(), as_json, table, out=out)
