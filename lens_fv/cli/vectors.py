"""Commands that make and read vectors: extract, tune, sweep, decode, show."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isnan, nan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

import lens_fv as fv
from lens_fv.cli.command import Options, OptionsOf, chosen, command, pick
from lens_fv.cli.inputs import TASK, ItemsFile, Loading, OutFile, OwnModel, Placing, TaskName, notes, open_model, queries_used
from lens_fv.cli.output import Printout, rows_of, table
from lens_fv.core.choices import Seed
from lens_fv.core.files import file_name
from lens_fv.errors import LensFVError

if TYPE_CHECKING:
    from lens_fv.heads import HeadRanking
    from lens_fv.tasks import Task
    from lens_fv.vectors import FunctionVector

VectorFile = Annotated[Path, Parameter(help="Vector file.")]
SHOWN = (("words", "best_rank"), ("words", "best_reciprocal"), ("answers", "median_rank"), ("answers", "top10"))
"""The means over relations that `decode` prints; its JSON object has all."""


@command
def extract(
    *,
    loading: Loading,
    task: TaskName = TASK,
    ranking: Path | None = None,
    options: Annotated[Options, OptionsOf("lens_fv:extract")],
    ranking_options: Annotated[
        Options, OptionsOf("lens_fv:rank_heads", only=("n_shots", "n_clean", "n_trials", "queries", "seed"))
    ],
    out: OutFile = None,
) -> Printout:
    """Extract a function vector from the strongest heads.

    Writes the vector to --out (default: TASK-extracted.safetensors).

    Args:
        ranking: Ranking file written by `rank`; default: rank now.
    """
    the_task, model = fv.load_task(task), open_model(**loading)
    heads = load_ranking(ranking, ranking_options) or fv.rank_heads(model, the_task, **ranking_options, progress=True)
    vector = fv.extract(model, the_task, heads, **options)
    path = vector.save(out or Path(f"{file_name(the_task.name)}-extracted.safetensors"))
    payload = {
        "model": model.name,
        "task": the_task.name,
        "layer": vector.layer,
        "site": vector.site,
        "queries": queries_used(vector.provenance.options),
        "heads": [list(head) for head in vector.heads],
        "norm": float(vector.vector.norm()),
        "norm_in_residuals": vector.norm,
        "file": str(path),
    }
    return Printout(payload, repr(vector), *notes(vector.provenance.options, path))


def load_ranking(path: Path | None, options: Options) -> "HeadRanking | None":
    """Load a ranking, if there is a file of it; its own options then hold.

    Raises:
        LensFVError: options were given that only a new ranking has.
    """
    if path is None:
        return None
    if unused := sorted(options.keys() - {"queries"}):
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in unused)
        raise LensFVError(f"extract from {path} with {flags}: the ranking is made already; leave out either")
    return fv.heads.HeadRanking.load(path)


@command
def tune(
    *,
    loading: Loading,
    task: TaskName = TASK,
    init: str = "zero",
    options: Annotated[Options, OptionsOf("lens_fv:tune")],
    test_options: Annotated[Options, OptionsOf("lens_fv:evaluate", only=("n_shots", "max_items"))],
    out: OutFile = None,
) -> Printout:
    """Fine-tune a vector on a few pairs with the model frozen, and test it.

    Writes the vector to --out (default: TASK-tuned.safetensors).

    Args:
        init: Initial vector: zero, random, extracted (ranks heads first) or a vector file.
    """
    the_task, model, seed = fv.load_task(task), open_model(**loading), pick(options, "seed")
    initial: Any = init
    if init == "extracted":
        ranking = fv.rank_heads(model, the_task, **pick(test_options, "n_shots"), **seed, progress=True)
        initial = fv.extract(model, the_task, ranking)
    elif init not in ("zero", "random"):
        initial = fv.FunctionVector.load(init)
    split = fv.split_pairs(the_task, **seed)
    vector = fv.tune(model, the_task, **options | {"init": initial}, split=split, progress=True)
    path = vector.save(out or Path(f"{file_name(the_task.name)}-tuned.safetensors"))
    vectors = {"extracted": initial} if isinstance(initial, fv.FunctionVector) else {}
    vectors |= {"tuned": vector}
    results = rows_of(fv.evaluate(model, the_task, vectors, split=split, **test_options, **seed, progress=True).results)
    payload = {
        "model": model.name,
        "task": the_task.name,
        "layer": vector.layer,
        "options": dict(vector.provenance.options),
        "results": results,
        "file": str(path),
    }
    return Printout(payload, repr(vector), table(results, title="on the test split"), f"written to {path}")


@command
def sweep(
    vector: VectorFile,
    *,
    loading: Loading,
    task: TaskName = TASK,
    options: Annotated[Options, OptionsOf("lens_fv:sweep_injection")],
    seed: Seed | None = None,
    out: ItemsFile = None,
) -> Printout:
    """Evaluate a vector injected at every layer and scale. Writes nothing unless --out is given.

    Args:
        seed: Seed of the split; default: the vector's own.
    """
    the_task, the_vector = fv.load_task(task), fv.FunctionVector.load(vector)
    split = None if seed is None else fv.split_pairs(the_task, seed=seed)
    result = fv.sweep_injection(open_model(**loading), the_task, the_vector, **options, split=split, progress=True)
    written = None if out is None else str(result.save(out))
    shares = zip(result.layers, result.mean("top1").tolist(), strict=True)
    rows = [{"layer": layer, **{f"x {scale:g}": share for scale, share in zip(result.scales, row)}} for layer, row in shares]
    payload = {
        "model": result.provenance.model,
        "task": the_task.name,
        "part": result.subset,
        "cells": rows_of(result.cells()),
        "best": rows_of([result.best()])[0],
        "file": written,
    }
    title = f"top-1 on {len(result.top1)} {result.subset} pairs"
    return Printout(payload, table(rows, title=title), repr(result), *notes({}, written))


@command
def decode(
    path: Annotated[Path, Parameter(help="Vector file, or folder of a vector library.")],
    *,
    loading: Loading,
    task: Sequence[Path] | None = None,
    options: Annotated[Options, OptionsOf("lens_fv:decode")],
    test_options: Annotated[Options, OptionsOf("lens_fv.evaluation:evaluate_decoding", leave_out=("seed",))],
    seed: Seed | None = None,
) -> Printout:
    """Decode vectors into tokens, and rank relation words and test answers in them; exploratory, not a test.

    Writes nothing unless --out is given.

    Args:
        task: File of pairs, for vectors of tasks that are not built in; repeatable.
        seed: Seed of the splits; default: each vector's own.
    """
    vectors = _vectors(path)
    tasks = _tasks(vectors, task or [])
    model, words = open_model(**loading), options.pop("words", ())
    rows: list[dict[str, Any]] = []
    for name, vector in vectors.items():
        asked = [*words, *(tasks[name].relation_words if name in tasks else ())]
        decoded = fv.decode(model, vector, **options, words=asked)
        rows.append({"name": name, "method": vector.provenance.method, "layer": vector.layer, **decoded.to_json()})
    views = [table([_decoded_row(row) for row in rows], title=str(path))]
    summary: list[dict[str, Any]] = []
    if tasks:
        splits = {n: fv.split_pairs(t, seed=vectors[n].provenance.seed if seed is None else seed) for n, t in tasks.items()}
        test_options |= {} if seed is None else {"seed": seed}
        ranks = fv.evaluation.evaluate_decoding(
            model, list(tasks.values()), {"vectors": vectors}, splits=splits, **test_options, progress=True
        )
        summary = [{key: value for key, value in row.items() if key != "condition"} for row in rows_of(ranks.results)]
        for mean in summary:
            values = dict(zip(ranks.relations, ranks.values(mean["measure"], of=mean["of"])[:, 0].tolist(), strict=True))
            for row in rows:
                if not isnan(value := values.get(row["name"], nan)):
                    row.setdefault(mean["of"], {})[mean["measure"]] = value
        views.append(table([row for row in summary if (row["of"], row["measure"]) in SHOWN], title="mean over relations"))
    how = {
        "centred": chosen(test_options, "lens_fv.evaluation:evaluate_decoding", "centred"),
        "through_layers": chosen(options, "lens_fv:decode", "through_layers"),
    }
    return Printout({"model": model.name, "vectors": rows, **how, "summary": summary}, *views)


@command
def show(
    file: Annotated[Path, Parameter(help="File written by another command.")], *, model: OwnModel = None, placing: Placing
) -> Printout:
    """Show any artefact and its provenance; with --model, also decode a vector into tokens.

    Writes nothing unless --out is given.

    Args:
        model: Model that decodes a vector; default: do not decode.
    """
    artefact = fv.load_artefact(file)
    payload = {
        "file": str(file),
        "kind": type(artefact).__name__,
        "facts": artefact.summary(),
        "provenance": asdict(artefact.provenance),
    }
    views = [repr(artefact)]
    if model and isinstance(artefact, fv.FunctionVector):
        views.append(decoded_line(payload, artefact, open_model(model, **placing)))
    return Printout(payload, *views)


def decoded_line(payload: dict[str, Any], vector: "FunctionVector", model: Any) -> str:
    """Add a vector's likeliest tokens to the payload, and return them as a line."""
    payload["decoded"] = fv.decode(model, vector).tokens
    return "  decodes into  " + ", ".join(f"{token!r} {p:.2f}" for token, p in payload["decoded"])


def _decoded_row(row: Mapping[str, Any]) -> dict[str, str]:
    ranks = sorted(row["ranks"].items(), key=lambda item: item[1])
    return {
        "vector": row["name"],
        "likeliest tokens": " ".join(repr(token) for token, _ in row["tokens"]),
        "ranks of words": ", ".join(f"{word} {rank:,}" for word, rank in ranks),
    }


def _vectors(path: Path) -> "dict[str, FunctionVector]":
    if path.is_dir():
        library = fv.VectorLibrary.load(path)
        return {name: library[name] for name in library}
    vector = fv.FunctionVector.load(path)
    return {vector.provenance.task: vector}


def _tasks(vectors: "Mapping[str, FunctionVector]", files: Sequence[Path]) -> "dict[str, Task]":
    """Find the vectors' tasks: those given as files, and built-in ones that have not changed since."""
    tasks: dict[str, Task] = {}
    for file in files:
        task = fv.load_task(file)
        if task.name not in vectors or vectors[task.name].provenance.task_hash != task.fingerprint:
            raise LensFVError(f"decode with the task {file}: no vector is of {task.name} with these pairs; leave it out")
        tasks[task.name] = task
    for name in (name for name in vectors if name not in tasks and name in fv.list_tasks()):
        if (built_in := fv.load_task(name)).fingerprint == vectors[name].provenance.task_hash:
            tasks[name] = built_in
    return tasks


COMMANDS = (extract, tune, sweep, decode, show)
