"""Commands that evaluate vectors: evaluate, compare, write, similarity."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

import lens_fv as fv
from lens_fv.cli.command import Options, OptionsOf, chosen, command, pick
from lens_fv.cli.inputs import (
    TASK,
    ItemsFile,
    Loading,
    MapFile,
    TaskName,
    Vectors,
    load_vectors,
    notes,
    open_model,
    queries_used,
)
from lens_fv.cli.output import Printout, rows_of, table
from lens_fv.core.choices import Count, Finite, Seed
from lens_fv.errors import LensFVError

if TYPE_CHECKING:
    from lens_fv.composition import VectorLibrary
    from lens_fv.evaluation import Evaluation
    from lens_fv.tasks import Pair

Scale = Annotated[Finite, Parameter(help="Factor that multiplies the vectors.")]


@command
def evaluate(
    *,
    loading: Loading,
    task: TaskName = TASK,
    vector: Vectors = None,
    other: Path | None = None,
    scale: Scale = 1.0,
    options: Annotated[Options, OptionsOf("lens_fv:evaluate")],
    out: ItemsFile = None,
) -> Printout:
    """Test vectors and their controls on a task's test split. Writes nothing unless --out is given.

    Args:
        other: Vector file of another relation, as a control.
    """
    the_task, vectors = fv.load_task(task), load_vectors(vector or [], scale)
    control = None if other is None else fv.FunctionVector.load(other)
    result = fv.evaluate(open_model(**loading), the_task, vectors, other=control, **options, progress=True)
    return _evaluated(result, out, {"prompts": result.prompts})


@command
def compare(
    *,
    loading: Loading,
    task: TaskName = TASK,
    options: Annotated[Options, OptionsOf("lens_fv:compare_baselines")],
    out: ItemsFile = None,
) -> Printout:
    """Compare function vectors with baselines made from the same pairs. Writes nothing unless --out is given."""
    result = fv.compare_baselines(open_model(**loading), fv.load_task(task), **options, progress=True)
    return _evaluated(result, out, {"pairs": chosen(options, "lens_fv:compare_baselines", "n_pairs")})


def _evaluated(result: "Evaluation", out: Path | None, about: dict[str, Any]) -> Printout:
    written = None if out is None else str(result.save(out))
    rows, provenance = rows_of(result.results), result.provenance
    payload = {"model": provenance.model, "task": provenance.task, **about, "queries": queries_used(provenance.options)}
    view = table(rows, title="on the test split")
    return Printout(payload | {"results": rows, "file": written}, view, *notes(provenance.options, written))


@command
def write(
    *,
    loading: Loading,
    task: TaskName = TASK,
    vector: Vectors = None,
    scale: Scale = 1.0,
    options: Annotated[Options, OptionsOf("lens_fv.evaluation:evaluate_texts")],
    out: ItemsFile = None,
) -> Printout:
    """Generate answers with and without vectors, and score the texts by ROUGE-L.

    Writes nothing unless --out is given.
    """
    the_task, vectors = fv.load_task(task), load_vectors(vector or [], scale)
    result = fv.evaluation.evaluate_texts(open_model(**loading), the_task, vectors, **options, progress=True)
    written = None if out is None else str(result.save(out))
    rows = rows_of(result.results)
    payload = {
        "model": result.provenance.model,
        "task": the_task.name,
        "instruction": options.get("instruction"),
        "results": rows,
        "texts": [
            {"input": item, "written": dict(zip(result.conditions, texts, strict=True))}
            for item, texts in zip(result.inputs, result.texts, strict=True)
        ],
        "file": written,
    }
    return Printout(payload, table(rows, title="ROUGE-L on the test split"), *notes({}, written))


@command
def similarity(
    library: Annotated[Sequence[Path], Parameter(help="Folders of vector libraries; composites use the first.")],
    *,
    loading: Loading,
    judgements: Path | None = None,
    semeval: Path | None = None,
    relation: Sequence[str] | None = None,
    task: Sequence[Path] | None = None,
    n_pairs: Count = 5,
    weight_map: MapFile = None,
    testing: Annotated[Options, OptionsOf("lens_fv.evaluation.alignment:compare_similarities", only=("permutations", "seed"))],
) -> Printout:
    """Compare similarities of relations with a taxonomy, with human judgements, and (SemEval) with human typicality.

    Compares the vectors of every library (for a relation it lacks, the vector that best explains its pairs), composites, their
    weights, and word embeddings. Writes nothing unless --out is given.

    Args:
        judgements: File of human similarities: a square CSV, or rows of a, b, score (CSV, TSV, JSON lines).
        semeval: Folder of SemEval-2012 Task 2, to compare its relations.
        relation: Relation to compare; repeatable; default: all.
        task: File of pairs, for relations that are not built in; repeatable.
        n_pairs: Number of pairs from which each relation's composite is made.
    """
    from lens_fv.evaluation import alignment

    libraries = _by_method(library, [fv.VectorLibrary.load(folder) for folder in library])
    basis = next(iter(libraries.values()))
    rated = {rating.name: rating for rating in alignment.load_semeval(semeval)} if semeval else {}
    groups = {name: r.group for name, r in rated.items()} or {entry.name: entry.group for entry in basis.entries}
    names = relation or list(groups)
    if unknown := [name for name in names if name not in groups]:
        raise LensFVError(f"compare {unknown[0]}: no such relation in {semeval or library[0]}; it has {', '.join(groups)}")
    human = alignment.load_judgements(judgements, known=names) if judgements else None
    seed = pick(testing, "seed")
    examples = {name: rated[name].examples for name in names} if rated else _pairs(names, task or [], n_pairs, **seed)
    mapped: Any = {} if weight_map is None else {"weight_map": fv.composition.WeightMap.load(weight_map)}
    model = open_model(**loading)
    vectors = alignment.relation_vectors(model, libraries, examples, **mapped, progress=True)
    matrices = alignment.relation_similarities(model, vectors, examples)
    classes = [groups[name] for name in names]
    payload: dict[str, Any] = {"model": model.name, "relations": names, "classes": classes}
    views: list[Any] = []
    if len(names) >= alignment.MIN_ITEMS and 1 < len(set(classes)) < len(names):
        structures = {kind: alignment.taxonomy_structure(matrix, classes, **testing) for kind, matrix in matrices.items()}
        payload["taxonomy"] = [
            {"kind": kind, **row} for kind, row in zip(structures, rows_of(structures.values()), strict=True)
        ]
        views.append(table(payload["taxonomy"], title="by taxonomy"))
    if human is not None:
        payload["judgements"] = [
            {"kind": kind, **row}
            for kind, matrix in matrices.items()
            for row in rows_of(
                alignment.compare_similarities(matrix, human, coefficient=coefficient, **testing)
                for coefficient in ("spearman", "pearson")
            )
        ]
        views.append(table(payload["judgements"], title=f"against {judgements}"))
    if rated:
        relations = [rated[name] for name in names]
        scores = alignment.typicality(model, relations, vectors, library=basis, **mapped, **seed, progress=True)
        by_relation = {name: row for name, row in zip(names, scores.by_relation().tolist(), strict=True)}
        payload["typicality"] = {"results": rows_of(scores.results), "by_relation": by_relation}
        views.append(table(payload["typicality"]["results"], title="typicality by measure, within SemEval-2012 relations"))
    return Printout(payload, *views)


def _by_method(folders: Sequence[Path], libraries: "list[VectorLibrary]") -> "dict[str, VectorLibrary]":
    """Key libraries by the method of their vectors, or by folder where methods coincide."""
    methods = ["+".join(sorted({entry.method for entry in library.entries})) for library in libraries]
    names = methods if len(set(methods)) == len(methods) else [folder.name for folder in folders]
    if len(set(names)) < len(names) or not all(len(library) for library in libraries):
        raise LensFVError(f"compare {len(libraries)} libraries ({', '.join(names)}): give different ones, none of them empty")
    return dict(zip(names, libraries, strict=True))


def _pairs(names: Sequence[str], files: Sequence[Path], n: int, seed: Seed = 0) -> "dict[str, list[Pair]]":
    """Sample pairs of each relation from its file, or from the built-in relation of that name."""
    own = {task.name: task for task in map(fv.load_task, files)}
    tasks = [own[name] if name in own else fv.load_task(name) for name in names]
    return {task.name: random.Random(seed).sample(task.pairs, min(n, len(task))) for task in tasks}


COMMANDS = (evaluate, compare, write, similarity)
