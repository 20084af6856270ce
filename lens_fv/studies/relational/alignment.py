"""The part on agreement with human judgements: typicality of pairs, and classes of relations."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from lens_fv.composition import build_library
from lens_fv.evaluation.alignment import (
    RatedRelation,
    SimilarityMatrix,
    load_semeval,
    relation_similarities,
    relation_vectors,
    taxonomy_structure,
    typicality,
)
from lens_fv.studies.relational.settings import RelationalRun
from lens_fv.studies.rows import Row, part
from lens_fv.tasks import Pair, Task, split_pairs
from lens_fv.vectors import FunctionVector

N_EXAMPLES = 5
"""Number of pairs from which a relation's composite is computed."""
N_SHOTS = 5
"""Number of demonstrations for SemEval's relations, which have about 40 pairs each."""


def _sources(run: RelationalRun) -> Iterator[tuple[int, str]]:
    yield from ((seed, "built-in") for seed in run.settings.seeds)
    if run.settings.semeval:
        yield run.seed, "semeval"


@part(_sources)
def alignment(run: RelationalRun, seed: int, source: str) -> Iterator[Row]:
    """Compare vectors with human typicality within SemEval-2012's relations, and with classes, groups and families.

    SemEval's vectors use the first seed. They are made from some rated pairs and correlated over others, so no reported pair
    was used in training.
    """
    if source == "semeval":
        yield from _semeval(run, str(run.settings.semeval))
        return
    libraries = {"tuned": run.library("tuned", seed), "extracted": run.library("extracted", seed)}
    examples = {name: split_pairs(task, seed=seed).train[:N_EXAMPLES] for name, task in run.tasks.items()}
    vectors = relation_vectors(run.model, libraries, examples, progress=run.progress)
    matrices = relation_similarities(run.model, vectors, examples)
    for level in ("group", "family"):
        yield from _taxonomy(level, matrices, [getattr(task, level) for task in run.tasks.values()], seed)


def _taxonomy(level: str, matrices: Mapping[str, SimilarityMatrix], classes: Sequence[str], seed: int) -> Iterator[Row]:
    for kind, matrix in matrices.items():
        structure = taxonomy_structure(matrix, classes, seed=seed)
        for measure in ("same", "different", "difference", "difference_p_value", "auc", "auc_p_value"):
            n = {"same": structure.n_same, "different": structure.n_different}.get(measure, structure.n_items)
            yield Row(level, kind, measure, getattr(structure, measure), n)


def _semeval(run: RelationalRun, path: str) -> Iterator[Row]:
    rated = load_semeval(path)[:: run.settings.rated_stride]
    tasks = {r.name: Task(r.name, r.pairs, group=r.group, family=r.family) for r in rated}
    splits = {name: split_pairs(task, seed=run.seed) for name, task in tasks.items()}
    held_out = [_restricted(r, splits[r.name].test, splits[r.name].train) for r in rated]
    examples = {r.name: r.examples[:N_EXAMPLES] for r in held_out}
    recipes = {
        "extracted": replace(run.extracted(), n_shots=N_SHOTS),
        "tuned": run.tuned(),
        "shuffled": run.tuned(shuffled=True),
    }
    vectors = dict[str, Mapping[str, FunctionVector]]()
    for kind, recipe in recipes.items():
        folder, options = run.folder / f"semeval-{kind}-{run.seed}", {"seed": run.seed, "progress": run.progress}
        library = build_library(run.model, list(tasks.values()), folder, recipe, **options)
        vectors[kind] = {name: library[name] for name in library}
    basis = run.library("tuned", run.seed)
    vectors["composite"] = relation_vectors(run.model, {"tuned": basis}, examples, progress=run.progress)["composite"]
    result = typicality(run.model, held_out, vectors, library=basis, seed=run.seed, progress=run.progress)
    for relation, values in zip(result.relations, result.by_relation().tolist(), strict=True):
        yield from (Row(relation, name, "spearman", value) for name, value in zip(result.measures, values, strict=True))
    matrices = relation_similarities(run.model, vectors, examples)
    yield from _taxonomy("SemEval class", matrices, [r.group for r in rated], run.seed)


def _restricted(relation: RatedRelation, pairs: Sequence[Pair], examples: Sequence[Pair]) -> RatedRelation:
    """A relation restricted to some of its rated pairs, with others as examples."""
    ratings = dict(zip(relation.pairs, relation.typicality, strict=True))
    return replace(relation, examples=tuple(examples), pairs=tuple(pairs), typicality=tuple(ratings[pair] for pair in pairs))
