"""Commands that make vectors: extract, tune."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lens_fv.cli.heads import Clean, Out, Trials, asked_line, asked_of
from lens_fv.cli.options import (
    DEFAULT_MODEL,
    AsJson,
    Device,
    Dtype,
    Items,
    ModelName,
    Seed,
    Shots,
    TaskName,
    emit,
    open_model,
)
from lens_fv.cli.testing import results_table
from lens_fv.core.files import file_name
from lens_fv.core.tables import table_rows

if TYPE_CHECKING:
    from lens_fv.heads import HeadRanking
    from lens_fv.model import LensModel
    from lens_fv.tasks import Task

Heads = Annotated[int, typer.Option("--heads", min=1, help="Number of strongest heads summed into the vector.")]
Ranking = Annotated[Path | None, typer.Option("--ranking", help="Ranking file written by `rank`; default: rank now.")]


def extract(
    model: ModelName = DEFAULT_MODEL,
    task: TaskName = "present-past",
    ranking: Ranking = None,
    heads: Heads = 10,
    layer: Annotated[
        int | None, typer.Option(help="Layer after which the vector is added; default: chosen on the validation split.")
    ] = None,
    site: Annotated[
        Literal["resid_post", "heads"],
        typer.Option(help="Injection site: add to the residual stream, or set the heads' outputs."),
    ] = ("resid_post"),
    shots: Shots = 10,
    clean: Clean = 100,
    trials: Trials = 25,
    queries: Annotated[
        Literal["all", "answered"] | None,
        typer.Option(help="Queries: all, or those the model answers after --shots demonstrations; default: as in --ranking."),
    ] = None,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    out: Out = None,
) -> None:
    """Extract a function vector from the strongest heads.

    Writes the vector to --out (default: TASK-extracted.safetensors).
    """
    from lens_fv.tasks import load_task
    from lens_fv.vectors import extract as make

    the_task, lens = load_task(task), open_model(model, device, dtype)
    ranked = _ranking(lens, the_task, ranking, shots, clean, trials, seed, queries or "all")
    vector = make(lens, the_task, ranked, n_heads=heads, layer=layer, site=site, queries=queries)
    path = vector.save(out or Path(f"{file_name(the_task.name)}-extracted.safetensors"))
    payload = {
        "model": lens.name,
        "task": the_task.name,
        "layer": vector.layer,
        "site": vector.site,
        "queries": asked_of(vector.provenance.options),
        "heads": [list(h) for h in vector.heads],
        "norm": float(vector.vector.norm()),
        "norm_in_residuals": vector.norm,
        "file": str(path),
    }
    emit(payload, as_json, repr(vector), *asked_line(vector.provenance.options), f"written to {path}")


def tune(
    model: ModelName = DEFAULT_MODEL,
    task: TaskName = "present-past",
    start: Annotated[
        str, typer.Option(help="Initial vector: zero, random, extracted (ranks heads first) or a vector file.")
    ] = "zero",
    pairs: Annotated[int, typer.Option(min=1, help="Number of training pairs.")] = 20,
    layer: Annotated[
        list[int] | None,
        typer.Option(help="Candidate layer; repeatable, the best is kept; default: two depths and the initial vector's layer."),
    ] = None,
    learning_rate: Annotated[
        list[float] | None,
        typer.Option(help="Candidate learning rate in units of the residual stream; repeatable; default: 0.05 and 0.1."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Number of Adam steps.")] = 40,
    l2: Annotated[float, typer.Option(min=0, help="Weight of the penalty on the vector's squared norm.")] = 0.0,
    shots: Shots = 10,
    items: Items = None,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    out: Out = None,
) -> None:
    """Fine-tune a vector on a few pairs with the model frozen, and test it.

    Writes the vector to --out (default: TASK-tuned.safetensors).
    """
    from lens_fv.evaluation import evaluate as test
    from lens_fv.tasks import load_task, split_pairs
    from lens_fv.vectors import FunctionVector, extract as make, tune as fit
    from lens_fv.vectors.options import LEARNING_RATES

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
    path = vector.save(out or Path(f"{file_name(the_task.name)}-tuned.safetensors"))
    tested = {"extracted": begin} if isinstance(begin, FunctionVector) else {}
    tested |= {"tuned": vector}
    found = test(lens, the_task, tested, split=split, n_shots=shots, max_items=items, seed=seed, progress=True)
    results = found.results
    payload = {
        "model": lens.name,
        "task": the_task.name,
        "layer": vector.layer,
        "options": dict(vector.provenance.options),
        "results": table_rows(results),
        "file": str(path),
    }
    emit(payload, as_json, repr(vector), results_table(results), f"written to {path}")


def _ranking(
    model: "LensModel",
    task: "Task",
    file: Path | None,
    shots: int,
    clean: int,
    trials: int,
    seed: int,
    queries: Literal["all", "answered"] = "all",
) -> "HeadRanking":
    from lens_fv.heads import HeadRanking, rank_heads

    if file is not None:
        return HeadRanking.load(file)
    return rank_heads(model, task, n_shots=shots, n_clean=clean, n_trials=trials, queries=queries, seed=seed, progress=True)
