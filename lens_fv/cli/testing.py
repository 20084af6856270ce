"""Commands that test vectors: evaluate, compare, sweep."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from lens_fv.cli.heads import Clean, Queries, Trials, asked_line, asked_of, columns
from lens_fv.cli.options import (
    DEFAULT_MODEL,
    AsJson,
    Device,
    Dtype,
    EvaluationFile,
    Force,
    Items,
    ModelName,
    Scale,
    Seed,
    SeedOption,
    Shots,
    TaskName,
    Vectors,
    emit,
    open_model,
    read_vectors,
)
from lens_fv.core.tables import table_row, table_rows

if TYPE_CHECKING:
    from lens_fv.evaluation import Result


def evaluate(
    model: ModelName = DEFAULT_MODEL,
    task: TaskName = "present-past",
    vector: Vectors = None,
    other: Annotated[Path | None, typer.Option(help="Vector file of another relation, as a control.")] = None,
    prompts: Annotated[
        Literal["zero_shot", "shuffled"],
        typer.Option(help="Prompts to which vectors are added: zero-shot, or with shuffled labels."),
    ] = "zero_shot",
    scale: Scale = 1.0,
    force: Force = False,
    queries: Queries = "all",
    shots: Shots = 10,
    items: Items = None,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    out: EvaluationFile = None,
) -> None:
    """Test vectors and their controls on a task's test split. Writes nothing unless --out is given."""
    from lens_fv.evaluation import evaluate as test
    from lens_fv.tasks import load_task
    from lens_fv.vectors import FunctionVector

    the_task, vectors = load_task(task), read_vectors(vector or [], scale)
    control = None if other is None else FunctionVector.load(other)
    lens = open_model(model, device, dtype)
    found = test(
        lens,
        the_task,
        vectors,
        other=control,
        prompts=prompts,
        n_shots=shots,
        queries=queries,
        max_items=items,
        seed=seed,
        force=force,
        progress=True,
    )
    written = None if out is None else str(found.save(out))
    payload = {
        "model": lens.name,
        "task": the_task.name,
        "prompts": prompts,
        "queries": asked_of(found.provenance.options),
        "results": table_rows(found.results),
        "file": written,
    }
    notes = asked_line(found.provenance.options) + ([f"written to {written}"] if written else [])
    emit(payload, as_json, results_table(found.results), *notes)


def compare(
    model: ModelName = DEFAULT_MODEL,
    task: TaskName = "present-past",
    kind: Annotated[list[str] | None, typer.Option(help="Kind of vector or baseline; repeatable; default: all nine.")] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Number of training pairs, shared by all kinds.")] = 20,
    heads: Annotated[int, typer.Option("--heads", min=1, help="Number of heads in the extracted vector.")] = 10,
    steps: Annotated[int, typer.Option(min=1, help="Number of Adam steps for kinds that are trained.")] = 40,
    items: Items = None,
    queries: Queries = "all",
    shots: Shots = 10,
    clean: Clean = 100,
    trials: Trials = 25,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    out: EvaluationFile = None,
) -> None:
    """Compare function vectors with baselines made from the same pairs. Writes nothing unless --out is given."""
    from lens_fv.evaluation import BASELINES, compare_baselines
    from lens_fv.tasks import load_task

    the_task, lens = load_task(task), open_model(model, device, dtype)
    found = compare_baselines(
        lens,
        the_task,
        kinds=kind or BASELINES,
        pairs=pairs,
        n_heads=heads,
        n_shots=shots,
        n_clean=clean,
        n_trials=trials,
        steps=steps,
        max_items=items,
        queries=queries,
        seed=seed,
        progress=True,
    )
    written = None if out is None else str(found.save(out))
    payload = {
        "model": lens.name,
        "task": the_task.name,
        "pairs": pairs,
        "queries": asked_of(found.provenance.options),
        "results": table_rows(found.results),
        "file": written,
    }
    notes = asked_line(found.provenance.options) + ([f"written to {written}"] if written else [])
    emit(payload, as_json, results_table(found.results), *notes)


def sweep(
    vector: Annotated[Path, typer.Argument(help="Vector file.")],
    model: ModelName = DEFAULT_MODEL,
    task: TaskName = "present-past",
    layer: Annotated[list[int] | None, typer.Option(help="Injection layer; repeatable; default: all.")] = None,
    scale: Annotated[list[float] | None, typer.Option(help="Scale; repeatable; default: 0.5, 1, 2 and 4.")] = None,
    part: Annotated[
        Literal["validation", "test"], typer.Option(help="Split to evaluate on; choose layer and scale on validation.")
    ] = "validation",
    items: Annotated[int, typer.Option(min=1, help="Maximum number of pairs.")] = 40,
    force: Annotated[bool, typer.Option(help="Sweep the vector even if it was made for another model or basis.")] = False,
    as_json: AsJson = False,
    seed: Annotated[int | None, SeedOption(help="Seed for the split; default: the vector's own.")] = None,
    device: Device = None,
    dtype: Dtype = None,
    out: Annotated[Path | None, typer.Option(help="File for the item-by-item sweep; default: not written.")] = None,
) -> None:
    """Evaluate a vector injected at every layer and scale. Writes nothing unless --out is given."""
    from lens_fv.tasks import load_task, split_pairs
    from lens_fv.vectors import FunctionVector, sweep_injection

    the_task, loaded = load_task(task), FunctionVector.load(vector)
    split = None if seed is None else split_pairs(the_task, seed=seed)
    lens = open_model(model, device, dtype)
    found = sweep_injection(
        lens,
        the_task,
        loaded,
        layers=layer or None,
        scales=scale or (0.5, 1.0, 2.0, 4.0),
        split=split,
        part=part,
        max_items=items,
        force=force,
        progress=True,
    )
    written = None if out is None else str(found.save(out))
    table = columns("layer", *(f"x {s:g}" for s in found.scales), title=f"top-1 on {len(found.top1)} {part} pairs")
    for at, row in zip(found.layers, found.mean("top1").tolist(), strict=True):
        table.add_row(str(at), *(f"{value:.2f}" for value in row))
    best, plain = found.best(), float(found.plain_top1.double().mean())
    said = (
        f"best by log-probability: layer {best.layer}, scale {best.scale:g}: top-1 {best.top1}, "
        f"log-probability {best.logprob_per_answer.mean:.2f} (without the vector {plain:.2f}, "
        f"{float(found.plain_logprob.mean()):.2f})"
    )
    payload = {
        "model": lens.name,
        "task": the_task.name,
        "part": part,
        "cells": table_rows(found.cells()),
        "best": table_row(best),
        "file": written,
    }
    emit(payload, as_json, table, said, *([f"written to {written}"] if written else []))


def results_table(results: "Sequence[Result]") -> Table:
    """Make the table of conditions with their scores and intervals."""
    table = columns("condition", "top-1 [95 %]", "top-3", "exact match", "log-prob. (nats)", "n", title="on the test split")
    for r in results:
        shares = (str(r.top1), f"{r.top3.mean:.2f}", f"{r.exact_match.mean:.2f}")
        table.add_row(r.condition, *shares, f"{r.logprob_per_answer.mean:.2f}", str(r.top1.n))
    return table
