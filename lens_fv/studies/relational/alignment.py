"""Agreement of vectors with human judgements: typicality of pairs and classes of relations."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from lens_fv.composition import VectorLibrary, build_library
from lens_fv.evaluation.alignment import (
    RatedRelation,
    SimilarityMatrix,
    load_semeval,
    relation_similarities,
    relation_vectors,
    taxonomy_structure,
    typicality,
)
from lens_fv.studies.records import stored_row, stored_rows
from lens_fv.studies.relational.settings import Study
from lens_fv.tasks import Pair, Task, split_pairs
from lens_fv.vectors import FunctionVector

N_EXAMPLES = 5
"""Number of pairs from which a relation's composite is computed."""
N_SHOTS = 5
"""Number of demonstrations for SemEval's relations, which have about 40 pairs each."""


def align(study: Study) -> None:
    """Compare vectors with human typicality within SemEval-2012's relations, and with classes, groups and families.

    SemEval's vectors use the first seed. They are made from some rated pairs and correlated over others, so no reported pair
    was used in training.
    """
    records = study.records("alignment")
    rated = load_semeval(study.settings.semeval)[:: study.settings.rated_stride] if study.settings.semeval else []
    for seed in study.settings.seeds:
        records.get_or_compute(f"{seed}/built-in", partial(_built_in, study, seed))
    if rated:
        seed = study.settings.seeds[0]
        records.get_or_compute(f"{seed}/semeval", partial(_semeval, study, rated, seed))


def _built_in(study: Study, seed: int) -> dict[str, Any]:
    libraries = {"tuned": study.library("tuned", seed), "extracted": study.library("extracted", seed)}
    examples = {name: split_pairs(task, seed=seed).train[:N_EXAMPLES] for name, task in study.tasks.items()}
    vectors = relation_vectors(study.model, libraries, examples, progress=study.progress)
    matrices = relation_similarities(study.model, vectors, examples)
    tasks = study.tasks.values()
    return {level: _structure(matrices, [getattr(task, level) for task in tasks], seed) for level in ("group", "family")}


def _structure(matrices: Mapping[str, SimilarityMatrix], classes: Sequence[str], seed: int) -> dict[str, Any]:
    return {kind: stored_row(taxonomy_structure(matrix, classes, seed=seed)) for kind, matrix in matrices.items()}


def _semeval(study: Study, rated: Sequence[RatedRelation], seed: int) -> dict[str, Any]:
    tasks = {r.name: Task(r.name, r.pairs, group=r.group, family=r.family) for r in rated}
    splits = {name: split_pairs(task, seed=seed) for name, task in tasks.items()}
    held_out = [_of(r, splits[r.name].test, splits[r.name].train) for r in rated]
    examples = {r.name: r.examples[:N_EXAMPLES] for r in held_out}
    recipes = {
        "extracted": replace(study.extracted(), n_shots=N_SHOTS),
        "tuned": study.tuned(),
        "shuffled": study.tuned(shuffled=True),
    }
    vectors: dict[str, Mapping[str, FunctionVector]] = {
        kind: _loaded(
            build_library(
                study.model,
                list(tasks.values()),
                study.folder / f"semeval-{kind}-{seed}",
                recipe,
                seed=seed,
                progress=study.progress,
            )
        )
        for kind, recipe in recipes.items()
    }
    basis = {"tuned": study.library("tuned", seed)}
    vectors["composite"] = relation_vectors(study.model, basis, examples, progress=study.progress)["composite"]
    found = typicality(study.model, held_out, vectors, library=basis["tuned"], seed=seed, progress=study.progress)
    differences = [
        found.difference(f"{one} {how}".strip(), f"{other} {how}".strip())
        for how in ("", "gain", "direction")
        for one, other in (("tuned", "extracted"), ("tuned", "shuffled"), ("composite", "extracted"))
    ]
    return {
        "results": stored_rows(found.results),
        "differences": stored_rows([*differences, *(found.difference(m, "none") for m in recipes)]),
        "by_relation": dict(zip(found.relations, found.by_relation().tolist(), strict=True)),
        "classes": _structure(relation_similarities(study.model, vectors, examples), [r.group for r in rated], seed),
    }


def _of(relation: RatedRelation, pairs: Sequence[Pair], examples: Sequence[Pair]) -> RatedRelation:
    """A relation restricted to some of its rated pairs, with others as examples."""
    ratings = dict(zip(relation.pairs, relation.typicality, strict=True))
    return replace(relation, examples=tuple(examples), pairs=tuple(pairs), typicality=tuple(ratings[pair] for pair in pairs))


def _loaded(library: VectorLibrary) -> dict[str, FunctionVector]:
    return {name: library[name] for name in library}
