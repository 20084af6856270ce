"""The command that decodes vectors into tokens: decode."""

from collections.abc import Mapping
from math import isnan, nan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lens_fv.cli.heads import columns
from lens_fv.cli.inspect import Report
from lens_fv.cli.options import DEFAULT_MODEL, AsJson, Device, Dtype, ModelName, SeedOption, emit, open_model
from lens_fv.core.tables import table_row

if TYPE_CHECKING:
    from lens_fv.tasks import Task
    from lens_fv.vectors import FunctionVector

SHOWN = (("words", "best_rank"), ("words", "best_reciprocal"), ("answers", "median_rank"), ("answers", "top10"))


def decode(
    path: Annotated[Path, typer.Argument(help="Vector file, or folder of a vector library.")],
    words: Annotated[list[str] | None, typer.Option(help="Word to rank in every vector; repeatable.")] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="File of pairs, for vectors of tasks that are not built in; repeatable.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Number of likeliest tokens to show.")] = 10,
    centred: Annotated[bool, typer.Option(help="Rank with the mean over the library's relations removed.")] = False,
    through: Annotated[
        bool,
        typer.Option("--through", help="Decode through the layers after the injection layer, not directly by the unembedding."),
    ] = False,
    model: ModelName = DEFAULT_MODEL,
    force: Annotated[bool, typer.Option(help="Decode vectors even if they were made for another model or basis.")] = False,
    as_json: AsJson = False,
    seed: Annotated[int | None, SeedOption(help="Seed for the splits; default: each vector's own.")] = None,
    device: Device = None,
    dtype: Dtype = None,
    out: Report = None,
) -> None:
    """Decode vectors into tokens, and rank relation words and test answers in them; exploratory, not a test.

    Writes nothing unless --out is given.
    """
    from lens_fv.evaluation import evaluate_decoding
    from lens_fv.tasks import split_pairs
    from lens_fv.vectors import decode as read

    vectors = _vectors(path)
    tasks = _tasks(vectors, task or [])
    lens = open_model(model, device, dtype)
    table = columns("vector", "likeliest tokens", "ranks of words", title=str(path))
    rows: list[dict[str, Any]] = []
    for name, vector in vectors.items():
        asked = [*(words or []), *(tasks[name].relation_words if name in tasks else ())]
        found = read(vector, lens, top, words=asked, through=through, force=force)
        ranks = sorted(found.ranks.items(), key=lambda item: item[1])
        table.add_row(name, " ".join(map(repr, (t for t, _ in found.tokens))), ", ".join(f"{w} {r:,}" for w, r in ranks))
        rows.append({"name": name, "method": vector.provenance.method, "layer": vector.layer, **found.to_json()})
    views: list[Any] = [table]
    summary: list[dict[str, Any]] = []
    if tasks:
        splits = {n: split_pairs(t, seed=vectors[n].provenance.seed if seed is None else seed) for n, t in tasks.items()}
        study = evaluate_decoding(
            lens,
            list(tasks.values()),
            {"vectors": vectors},
            splits=splits,
            centred=centred,
            through=through,
            seed=seed or 0,
            force=force,
            progress=True,
        )
        means = columns("of", "measure", "mean [95 %]", "relations", title="mean over relations")
        for r in study.results:
            if (r.of, r.measure) in SHOWN:
                means.add_row(r.of, r.measure, f"{r.value:.3f}", str(r.value.n))
            values = dict(zip(study.relations, study.values(r.measure, of=r.of)[:, 0].tolist(), strict=True))
            for row in rows:
                if not isnan(value := values.get(row["name"], nan)):
                    row.setdefault(r.of, {})[r.measure] = value
            summary.append({key: value for key, value in table_row(r).items() if key != "condition"})
        views.append(means)
    emit(
        {"model": lens.name, "vectors": rows, "centred": centred, "through": through, "summary": summary},
        as_json,
        *views,
        out=out,
    )


def _vectors(path: Path) -> "dict[str, FunctionVector]":
    from lens_fv.composition import VectorLibrary
    from lens_fv.vectors import FunctionVector

    if path.is_dir():
        library = VectorLibrary.open(path)
        return {name: library[name] for name in library}
    vector = FunctionVector.load(path)
    return {vector.provenance.task: vector}


def _tasks(vectors: "Mapping[str, FunctionVector]", files: list[str]) -> "dict[str, Task]":
    """Find the vectors' tasks: those given as files, and built-in ones that have not changed since."""
    from lens_fv.errors import LensFVError
    from lens_fv.tasks import list_tasks, load_task

    found: dict[str, Task] = {}
    for file in files:
        given = load_task(file)
        if given.name not in vectors or vectors[given.name].provenance.task_hash != given.fingerprint:
            raise LensFVError(f"decode with the task {file}: no vector is of {given.name} with these pairs; leave it out")
        found[given.name] = given
    for name in (name for name in vectors if name not in found and name in list_tasks()):
        if (built_in := load_task(name)).fingerprint == vectors[name].provenance.task_hash:
            found[name] = built_in
    return found
