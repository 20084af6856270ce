"""The command that compares vectors with human judgements: similarity."""

import random
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lens_fv.cli.analogies import Map
from lens_fv.cli.heads import columns
from lens_fv.cli.options import DEFAULT_MODEL, AsJson, Device, Dtype, ModelName, Seed, emit, open_model
from lens_fv.core.tables import table_row, table_rows

if TYPE_CHECKING:
    from lens_fv.composition import VectorLibrary
    from lens_fv.tasks import Pair


def similarity(
    library: Annotated[list[Path], typer.Argument(help="Folders of vector libraries; composites use the first.")],
    model: ModelName = DEFAULT_MODEL,
    judgements: Annotated[
        Path | None,
        typer.Option(help="File of human similarities: a square CSV, or rows of a, b, score (CSV, TSV, JSON lines)."),
    ] = None,
    semeval: Annotated[Path | None, typer.Option(help="Folder of SemEval-2012 Task 2, to compare its relations.")] = None,
    relation: Annotated[list[str] | None, typer.Option(help="Relation to compare; repeatable; default: all.")] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="File of pairs, for relations that are not built in; repeatable.")
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Number of pairs from which each relation's composite is made.")] = 5,
    weight_map: Map = None,
    permutations: Annotated[int, typer.Option(min=1, help="Number of permutations for p-values.")] = 10_000,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    out: Annotated[Path | None, typer.Option("--out", help="File for the JSON report; default: not written.")] = None,
) -> None:
    """Compare similarities of relations with a taxonomy, with human judgements, and (SemEval) with human typicality.

    Compares the vectors of every library (for a relation it lacks, the vector that best explains its pairs), composites, their
    weights, and word embeddings. Writes nothing unless --out is given.
    """
    from lens_fv.composition import VectorLibrary, WeightMap
    from lens_fv.errors import LensFVError
    from lens_fv.evaluation.alignment import (
        FEWEST,
        compare_similarities,
        load_judgements,
        load_semeval,
        relation_similarities,
        relation_vectors,
        taxonomy_structure,
        typicality,
    )

    libraries = _by_method(library, [VectorLibrary.open(folder) for folder in library])
    basis = next(iter(libraries.values()))
    rated = {r.name: r for r in load_semeval(semeval)} if semeval else {}
    groups = {name: r.group for name, r in rated.items()} or {entry.name: entry.group for entry in basis.entries}
    names = relation or list(groups)
    unknown = [name for name in names if name not in groups]
    if unknown:
        raise LensFVError(f"compare {unknown[0]}: no such relation in {semeval or library[0]}; it has {', '.join(groups)}")
    human = load_judgements(judgements, known=names) if judgements else None
    examples = {n: rated[n].examples for n in names} if rated else _pairs(names, task or [], pairs, seed)
    fitted = None if weight_map is None else WeightMap.load(weight_map)
    lens = open_model(model, device, dtype)
    vectors = relation_vectors(lens, libraries, examples, weight_map=fitted, progress=True)
    matrices = relation_similarities(lens, vectors, examples)
    payload: dict[str, Any] = {"model": lens.name, "relations": names, "classes": [groups[n] for n in names]}
    views: list[Any] = []
    if len(names) >= FEWEST and 1 < len(set(payload["classes"])) < len(names):
        table = columns("similarity by", "same class", "different", "difference", "p", "AUC", "p", title="by taxonomy")
        payload["taxonomy"] = []
        for kind, matrix in matrices.items():
            t = taxonomy_structure(matrix, payload["classes"], permutations=permutations, seed=seed)
            cells = [
                f"{t.same:+.3f}",
                f"{t.different:+.3f}",
                f"{t.difference:+.3f}",
                f"{t.difference_p_value:.4f}",
                f"{t.auc:.3f}",
            ]
            table.add_row(kind, *cells, f"{t.auc_p_value:.4f}")
            payload["taxonomy"].append({"kind": kind, **table_row(t)})
        views.append(table)
    if human is not None:
        table = columns("similarity by", "coefficient", "correlation [95 %]", "p", title=f"against {judgements}")
        payload["judgements"] = []
        for kind, matrix in matrices.items():
            for coefficient in ("spearman", "pearson"):
                a = compare_similarities(matrix, human, coefficient=coefficient, permutations=permutations, seed=seed)
                table.add_row(kind, coefficient, f"{a.correlation:+.3f}", f"{a.p_value:.4f}")
                payload["judgements"].append({"kind": kind, **{k: None if v != v else v for k, v in table_row(a).items()}})
        views.append(table)
    if rated:
        found = typicality(lens, [rated[n] for n in names], vectors, library=basis, weight_map=fitted, seed=seed, progress=True)
        table = columns("typicality by", "Spearman [95 %]", "relations", title="within SemEval-2012 relations")
        for r in found.results:
            table.add_row(r.measure, f"{r.spearman:+.3f}", str(r.spearman.n))
        by_relation = {name: row for name, row in zip(names, found.by_relation().tolist(), strict=True)}
        payload["typicality"] = {"results": table_rows(found.results), "by_relation": by_relation}
        views.append(table)
    emit(payload, as_json, *views, *([f"written to {out}"] if out else []), out=out)


def _by_method(folders: list[Path], found: "list[VectorLibrary]") -> "dict[str, VectorLibrary]":
    """Key libraries by the method of their vectors, or by folder where methods coincide."""
    from lens_fv.errors import LensFVError

    methods = ["+".join(sorted({entry.method for entry in library.entries})) for library in found]
    names = methods if len(set(methods)) == len(methods) else [folder.name for folder in folders]
    if len(set(names)) < len(names) or not all(len(library) for library in found):
        raise LensFVError(f"compare {len(found)} libraries ({', '.join(names)}): give different ones, none of them empty")
    return dict(zip(names, found, strict=True))


def _pairs(names: list[str], files: list[str], n: int, seed: int) -> "dict[str, list[Pair]]":
    """Sample pairs of each relation from its file, or from the built-in relation of that name."""
    from lens_fv.tasks import load_task

    own = {task.name: task for task in map(load_task, files)}
    tasks = [own[name] if name in own else load_task(name) for name in names]
    return {task.name: random.Random(seed).sample(task.pairs, min(n, len(task))) for task in tasks}
