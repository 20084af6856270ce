"""Commands that make and test vectors: extract, tune, evaluate."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from lens_fv.cli.heads import Clean, Out, Trials, columns
from lens_fv.cli.options import (
    DEFAULT_MODEL,
    AsJson,
    Device,
    Dtype,
    ModelName,
    Seed,
    Shots,
    TaskName,
    emit,
    open_model,
)

if TYPE_CHECKING:
    from lens_fv.evaluation import Result
    from lens_fv.heads import HeadRanking
    from lens_fv.model import LensModel
    from lens_fv.tasks import Task

Heads = Annotated[int, typer.Option("--heads", min=1, help="How many of the strongest heads make the vector.")]
Ranking = Annotated[Path | None, typer.Option("--ranking", help="A ranking that `rank` wrote; default: rank now.")]


def extract(
    model: ModelName = DEFAULT_MODEL,
    task: TaskName = "present-past",
    ranking: Ranking = None,
    heads: Heads = 10,
    layer: Annotated[int | None, typer.Option(help="Where to add it; default: picked on the validation split.")] = None,
    site: Annotated[Literal["resid_post", "heads"], typer.Option(help="Add to the residual stream, or set the heads.")] = (
        "resid_post"
    ),
    shots: Shots = 10,
    clean: Clean = 100,
    trials: Trials = 25,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    out: Out = None,
) -> None:
    """Make a function vector from the strongest heads.

    Writes the vector to --out (default: TASK-extracted.safetensors).
    """
    from lens_fv.tasks import load_task
    from lens_fv.vectors import extract as make

    the_task, lens = load_task(task), open_model(model, device, dtype)
    ranked = _ranking(lens, the_task, ranking, shots, clean, trials, seed)
    vector = make(lens, the_task, ranked, n_heads=heads, layer=layer, site=site)
    path = vector.save(out or Path(f"{the_task.name}-extracted.safetensors"))
    payload = {
        "model": lens.name,
        "task": the_task.name,
        "layer": vector.layer,
        "site": vector.site,
        "heads": [list(h) for h in vector.heads],
        "norm": float(vector.vector.norm()),
        "norm_in_residuals": vector.norm,
        "file": str(path),
    }
    emit(payload, as_json, repr(vector), f"written to {path}")


def tune(
    model: ModelName = DEFAULT_MODEL,
    task: TaskName = "present-past",
    start: Annotated[str, typer.Option(help="zero, random, extracted (ranks heads first), or a vector's file.")] = "zero",
    pairs: Annotated[int, typer.Option(min=1, help="Training pairs.")] = 20,
    layer: Annotated[list[int] | None, typer.Option(help="One or several to choose from; default: three.")] = None,
    learning_rate: Annotated[
        list[float] | None, typer.Option(help="One or several, in units of the residual stream; default: 0.05 and 0.1.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of Adam.")] = 40,
    l2: Annotated[float, typer.Option(min=0, help="Weight of the squared length.")] = 0.0,
    shots: Shots = 10,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    out: Out = None,
) -> None:
    """Fine-tune a vector on a few pairs, the model frozen, and test it.

    Writes the vector to --out (default: TASK-tuned.safetensors).
    """
    from lens_fv.evaluation import evaluate as test
    from lens_fv.tasks import load_task, split_pairs
    from lens_fv.vectors import FunctionVector
    from lens_fv.vectors import extract as make
    from lens_fv.vectors import tune as fit
    from lens_fv.vectors.tune import LEARNING_RATES

    the_task, lens = load_task(task), open_model(model, device, dtype)
    begin: FunctionVector | Literal["zero", "random"]
    if start == "zero" or start == "random":
        begin = start
    elif start == "extracted":
        begin = make(lens, the_task, _ranking(lens, the_task, None, shots, 100, 25, seed))
    else:
        begin = FunctionVector.load(start)
    split = split_pairs(the_task, seed=seed)
    rates = learning_rate or LEARNING_RATES
    vector = fit(
        lens,
        the_task,
        start=begin,
        pairs=pairs,
        layer=layer or None,
        learning_rate=rates,
        steps=steps,
        l2=l2,
        split=split,
        seed=seed,
        progress=True,
    )
    path = vector.save(out or Path(f"{the_task.name}-tuned.safetensors"))
    tested = {"extracted": begin} if isinstance(begin, FunctionVector) else {}
    results = test(lens, the_task, tested | {"tuned": vector}, split=split, n_shots=shots, seed=seed, progress=True).results
    payload = {
        "model": lens.name,
        "task": the_task.name,
        "layer": vector.layer,
        "options": dict(vector.provenance.options),
        "results": [r._asdict() for r in results],
        "file": str(path),
    }
    emit(payload, as_json, repr(vector), _results_table(results), f"written to {path}")


def evaluate(
    model: ModelName = DEFAULT_MODEL,
    task: TaskName = "present-past",
    vector: Annotated[list[Path] | None, typer.Option(help="A vector's file; may be given several times.")] = None,
    other: Annotated[Path | None, typer.Option(help="Another relation's vector, as a control.")] = None,
    prompts: Annotated[Literal["zero_shot", "shuffled"], typer.Option(help="What vectors are added to.")] = "zero_shot",
    scale: Annotated[float, typer.Option(help="Multiplies the vectors.")] = 1.0,
    force: Annotated[bool, typer.Option(help="Apply vectors of another model or basis.")] = False,
    shots: Shots = 10,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    out: Annotated[Path | None, typer.Option(help="Also write the evaluation, item by item, to this file.")] = None,
) -> None:
    """Test vectors on a task's test split, beside their controls. Writes nothing unless --out is given."""
    from lens_fv.errors import LensFVError
    from lens_fv.evaluation import evaluate as test
    from lens_fv.tasks import load_task
    from lens_fv.vectors import FunctionVector

    the_task = load_task(task)
    vectors: dict[str, FunctionVector] = {}
    for path in vector or []:
        loaded = FunctionVector.load(path)
        name = loaded.provenance.method
        if name in vectors:
            raise LensFVError(f"evaluate {path}: another {name} vector is given already; evaluate them one at a time")
        vectors[name] = loaded.at(scale=scale)
    control = None if other is None else FunctionVector.load(other)
    lens = open_model(model, device, dtype)
    found = test(lens, the_task, vectors, other=control, prompts=prompts, n_shots=shots, seed=seed, force=force, progress=True)
    written = None if out is None else str(found.save(out))
    payload = {
        "model": lens.name,
        "task": the_task.name,
        "prompts": prompts,
        "results": [r._asdict() for r in found.results],
        "file": written,
    }
    emit(payload, as_json, _results_table(found.results), *([f"written to {written}"] if written else []))


def _ranking(
    model: "LensModel", task: "Task", file: Path | None, shots: int, clean: int, trials: int, seed: int
) -> "HeadRanking":
    from lens_fv.heads import HeadRanking, rank_heads

    if file is not None:
        return HeadRanking.load(file)
    return rank_heads(model, task, n_shots=shots, n_clean=clean, n_trials=trials, seed=seed, progress=True)


def _results_table(results: "Sequence[Result]") -> Table:
    table = columns("condition", "top-1", "95 % interval", "top-3", "whole answer", "log-prob.", "n", title="on the test split")
    for r in results:
        cells: list[Any] = [r.condition, f"{r.top1:.2f}", f"[{r.low:.2f}, {r.high:.2f}]", f"{r.top3:.2f}", f"{r.full:.2f}"]
        table.add_row(*cells, f"{r.mean_logprob:.2f}", str(r.n))
    return table
