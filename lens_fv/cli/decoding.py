"""Commands that read vectors and other artefacts: decode, show."""

from collections.abc import Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import lens_fv as fv
from lens_fv.cli.command import Options, OptionsOf, command
from lens_fv.cli.inputs import Loading, Placing, TaskFile, open_model
from lens_fv.cli.output import Printout, table
from lens_fv.core.choices import Seed
from lens_fv.core.tables import table_rows
from lens_fv.errors import LensFVError

if TYPE_CHECKING:
    from lens_fv.core.artefact import Artefact

DecodingModel = Annotated[str | None, "Model that decodes a vector; default: do not decode."]
SHOWN = (("words", "best_rank"), ("words", "best_reciprocal"), ("answers", "median_rank"), ("answers", "top10"))
"""The means over relations that `decode` prints; its JSON object has all."""


@command
def decode(
    path: Annotated[Path, "Vector file, or folder of a vector library."],
    *,
    loading: Loading,
    task: Annotated[Sequence[TaskFile], "File of pairs, for vectors of tasks that are not built in; repeatable."] = (),
    options: Annotated[Options, OptionsOf("lens_fv:decode")],
    test_options: Annotated[Options, OptionsOf("lens_fv.evaluation:evaluate_decoding", leave_out=("seed",))],
    seed: Annotated[Seed | None, "Seed of the splits; default: each vector's own."] = None,
) -> Printout:
    """Decode vectors into tokens, and rank relation words and test answers in them; exploratory, not a test."""
    vectors = _vectors(path)
    tasks = _tasks(vectors, task)
    model, words = open_model(**loading), options.pop("words", ())
    rows: dict[str, dict[str, Any]] = {}
    for name, vector in vectors.items():
        relation_words = tasks[name].relation_words if name in tasks else ()
        decoded = fv.decode(model, vector, **options, words=[*words, *relation_words])
        rows[name] = {"name": name, "method": vector.provenance.method, "layer": vector.layer, **decoded.to_json()}
    views = [table([_decoded_row(row) for row in rows.values()], title=str(path))]
    summary: list[dict[str, Any]] = []
    if tasks:
        splits = {n: fv.split_pairs(t, seed=vectors[n].provenance.seed if seed is None else seed) for n, t in tasks.items()}
        test_options |= {} if seed is None else {"seed": seed}
        ranks = fv.evaluation.evaluate_decoding(
            model, list(tasks.values()), {"vectors": vectors}, splits=splits, **test_options, progress=True
        )
        for mean in table_rows(ranks.results):
            del mean["condition"]
            summary.append(mean)
            values = ranks.values(mean["measure"], of=mean["of"])[:, 0].tolist()
            for name, value in zip(ranks.relations, values, strict=True):
                if not isnan(value):
                    rows[name].setdefault(mean["of"], {})[mean["measure"]] = value
        views.append(table([row for row in summary if (row["of"], row["measure"]) in SHOWN], title="mean over relations"))
    switches = {name: options.get(name, test_options.get(name, False)) for name in ("centred", "through_layers")}
    return Printout({"model": model.name, "vectors": list(rows.values()), **switches, "summary": summary}, *views)


@command
def show(
    file: Annotated[Path, "File written by another command."], *, model: DecodingModel = None, placing: Placing
) -> Printout:
    """Show any artefact and its provenance; with --model, also decode a vector into tokens."""
    artefact = fv.load_artefact(file)
    about = {"file": file, "kind": type(artefact).__name__, "provenance": artefact.provenance}
    return shown(artefact, model, placing, about)


def shown(artefact: "Artefact", model: str | None, placing: Options, about: Options) -> Printout:
    """Print an artefact; with a model, decode a vector into tokens."""
    payload, views = about | {"summary": artefact.summary()}, [repr(artefact)]
    if model and isinstance(artefact, fv.FunctionVector):
        tokens = fv.decode(open_model(model, **placing), artefact).tokens
        payload["decoded"] = tokens
        views.append("  decodes into  " + ", ".join(f"{token!r} {p:.2f}" for token, p in tokens))
    return Printout(payload, *views)


def _decoded_row(row: Mapping[str, Any]) -> dict[str, str]:
    ranks = sorted(row["ranks"].items(), key=lambda item: item[1])
    return {
        "vector": row["name"],
        "likeliest tokens": " ".join(repr(token) for token, _ in row["tokens"]),
        "ranks of words": ", ".join(f"{word} {rank:,}" for word, rank in ranks),
    }


def _vectors(path: Path) -> "dict[str, fv.FunctionVector]":
    if path.is_dir():
        library = fv.VectorLibrary.load(path)
        return {name: library[name] for name in library}
    vector = fv.FunctionVector.load(path)
    return {vector.provenance.task: vector}


def _tasks(vectors: "Mapping[str, fv.FunctionVector]", own: "Sequence[fv.Task]") -> "dict[str, fv.Task]":
    """Find the vectors' tasks: those given as files, and built-in ones that have not changed since."""
    hashes = {name: vector.provenance.task_hash for name, vector in vectors.items()}
    tasks = {task.name: task for task in own}
    for name, task in tasks.items():
        if hashes.get(name) != task.fingerprint:
            raise LensFVError(f"decode with the task {name}: no vector is of {name} with these pairs; leave it out")
    built_in = {name: fv.load_task(name) for name in hashes if name not in tasks and name in fv.list_tasks()}
    return tasks | {name: task for name, task in built_in.items() if task.fingerprint == hashes[name]}
