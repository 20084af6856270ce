"""Commands that evaluate vectors: evaluate, compare, write, similarity."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import lens_fv as fv
from lens_fv.cli.command import Options, OptionsOf, chosen, command, pick
from lens_fv.cli.inputs import ItemsFile, Loading, MapInput, OwnTask, TaskFile, TaskInput, VectorInput, open_model, own_task
from lens_fv.cli.output import Printout, artefact_printout, queries_used, table
from lens_fv.core.choices import Count, Finite, Seed
from lens_fv.core.tables import table_rows
from lens_fv.errors import LensFVError

Vectors = Annotated[Sequence[VectorInput], "Vector file; repeatable."]
Scale = Annotated[Finite, "Factor that multiplies the vectors."]


@command
def evaluate(
    *,
    loading: Loading,
    task: OwnTask = None,
    vector: Vectors = (),
    other: Annotated[VectorInput | None, "Vector file of another relation, as a control."] = None,
    scale: Scale = 1.0,
    options: Annotated[Options, OptionsOf("lens_fv:evaluate")],
    out: ItemsFile = None,
) -> Printout:
    """Test vectors and their controls on a task's test split."""
    task = own_task(task, *vector)
    vectors = _scaled(vector, scale)
    result = fv.evaluate(open_model(**loading), task, vectors, other=other, **options, progress=True)
    return _results(result, "on the test split", out, prompts=result.prompts, queries=queries_used(result))


@command
def compare(
    *,
    loading: Loading,
    task: TaskInput,
    options: Annotated[Options, OptionsOf("lens_fv:compare_baselines")],
    out: ItemsFile = None,
) -> Printout:
    """Compare function vectors with baselines made from the same pairs."""
    result = fv.compare_baselines(open_model(**loading), task, **options, progress=True)
    n_pairs = chosen(options, "lens_fv:compare_baselines", "n_pairs")
    return _results(result, "on the test split", out, pairs=n_pairs, queries=queries_used(result))


@command
def write(
    *,
    loading: Loading,
    task: OwnTask = None,
    vector: Vectors = (),
    scale: Scale = 1.0,
    options: Annotated[Options, OptionsOf("lens_fv.evaluation:evaluate_texts")],
    out: ItemsFile = None,
) -> Printout:
    """Generate answers with and without vectors, and score the texts by ROUGE-L."""
    task = own_task(task, *vector)
    vectors = _scaled(vector, scale)
    result = fv.evaluation.evaluate_texts(open_model(**loading), task, vectors, **options, progress=True)
    texts = [
        {"input": item, "outputs": dict(zip(result.conditions, outputs, strict=True))}
        for item, outputs in zip(result.inputs, result.texts, strict=True)
    ]
    return _results(result, "ROUGE-L on the test split", out, instruction=options.get("instruction"), texts=texts)


def _results(
    result: "fv.evaluation.Evaluation | fv.evaluation.TextEvaluation", title: str, out: Path | None, **values: Any
) -> Printout:
    rows = table_rows(result.results)
    return artefact_printout(result, table(rows, title=title), out=out, results=rows, **values)


def _scaled(vectors: "Sequence[fv.FunctionVector]", scale: float) -> "dict[str, fv.FunctionVector]":
    """Scale vectors and key them by the methods that made them, which have to differ."""
    by_method = {vector.provenance.method: vector.at(scale=scale) for vector in vectors}
    if len(by_method) < len(vectors):
        methods = ", ".join(vector.provenance.method for vector in vectors)
        raise LensFVError(f"evaluate {methods} vectors: two were made by one method; evaluate them one at a time")
    return by_method


@command
def similarity(
    library: Annotated[Sequence[Path], "Folders of vector libraries; composites use the first."],
    *,
    loading: Loading,
    judgements: Path | None = None,
    semeval: Path | None = None,
    relation: Sequence[str] | None = None,
    task: Sequence[TaskFile] = (),
    n_pairs: Count = 5,
    weight_map: MapInput | None = None,
    testing: Annotated[Options, OptionsOf("lens_fv.evaluation.alignment:compare_similarities", only=("permutations", "seed"))],
) -> Printout:
    """Compare similarities of relations with a taxonomy, with human judgements, and (SemEval) with human typicality.

    Compares the vectors of every library (for a relation it lacks, the vector that best explains its pairs), composites, their
    weights, and word embeddings.

    Args:
        judgements: File of human similarities: a square CSV, or rows of a, b, score (CSV, TSV, JSON lines).
        semeval: Folder of SemEval-2012 Task 2, to compare its relations.
        relation: Relation to compare; repeatable; default: all.
        task: File of pairs, for relations that are not built in; repeatable.
        n_pairs: Number of pairs from which each relation's composite is made.
    """
    from lens_fv.evaluation import alignment

    libraries = _by_method(library)
    basis = next(iter(libraries.values()))
    rated = {rating.name: rating for rating in alignment.load_semeval(semeval)} if semeval else {}
    groups = {name: r.group for name, r in rated.items()} or {entry.name: entry.group for entry in basis.entries}
    names = relation or list(groups)
    if unknown := [name for name in names if name not in groups]:
        raise LensFVError(f"compare {unknown[0]}: no such relation in {semeval or library[0]}; it has {', '.join(groups)}")
    human = alignment.load_judgements(judgements, known=names) if judgements else None
    seed = pick(testing, "seed")
    examples = {name: rated[name].examples for name in names} if rated else _pairs(names, task, n_pairs, **seed)
    model = open_model(**loading)
    vectors = alignment.relation_vectors(model, libraries, examples, weight_map=weight_map, progress=True)
    matrices = alignment.relation_similarities(model, vectors, examples)
    classes = [groups[name] for name in names]
    payload: dict[str, Any] = {"model": model.name, "relations": names, "classes": classes}
    views: list[Any] = []
    if len(names) >= alignment.MIN_ITEMS and 1 < len(set(classes)) < len(names):
        structures = {kind: alignment.taxonomy_structure(matrix, classes, **testing) for kind, matrix in matrices.items()}
        payload["taxonomy"] = table_rows({"kind": kind, **structure.records()[0]} for kind, structure in structures.items())
        views.append(table(payload["taxonomy"], title="by taxonomy"))
    if human is not None:
        agreements: list[dict[str, Any]] = []
        for kind, matrix in matrices.items():
            for coefficient in ("spearman", "pearson"):
                agreement = alignment.compare_similarities(matrix, human, coefficient=coefficient, **testing)
                agreements.append({"kind": kind, **agreement.records()[0]})
        payload["judgements"] = table_rows(agreements)
        views.append(table(payload["judgements"], title=f"against {judgements}"))
    if rated:
        relations = [rated[name] for name in names]
        scores = alignment.typicality(model, relations, vectors, library=basis, weight_map=weight_map, **seed, progress=True)
        results, by_relation = table_rows(scores.results), dict(zip(names, scores.by_relation().tolist(), strict=True))
        payload["typicality"] = {"results": results, "by_relation": by_relation}
        views.append(table(results, title="typicality by measure, within SemEval-2012 relations"))
    return Printout(payload, *views)


def _by_method(folders: Sequence[Path]) -> "dict[str, fv.VectorLibrary]":
    """Open libraries, keyed by the method of their vectors, or by folder where methods coincide."""
    libraries = [fv.VectorLibrary.load(folder) for folder in folders]
    methods = ["+".join(sorted({entry.method for entry in library.entries})) for library in libraries]
    names = methods if len(set(methods)) == len(methods) else [folder.name for folder in folders]
    if len(set(names)) < len(names) or not all(len(library) for library in libraries):
        raise LensFVError(f"compare {len(libraries)} libraries ({', '.join(names)}): give different ones, none of them empty")
    return dict(zip(names, libraries, strict=True))


def _pairs(names: Sequence[str], tasks: "Sequence[fv.Task]", n: int, seed: Seed = 0) -> "dict[str, list[fv.Pair]]":
    """Sample pairs of each relation from its own task, or from the built-in relation of that name."""
    own = {task.name: task for task in tasks}
    tasks = [own[name] if name in own else fv.load_task(name) for name in names]
    return {task.name: random.Random(seed).sample(task.pairs, min(n, len(task))) for task in tasks}
