"""The part on analogies: composite vectors on relations that were held out from their maps."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from lens_fv.composition import VectorLibrary, WeightMap, composite_features, fit_maps, softmax_map
from lens_fv.composition.analogies import reported_analogies, training_analogies
from lens_fv.evaluation import AnalogyEvaluation, evaluate_analogies
from lens_fv.studies.relational.settings import RelationalRun
from lens_fv.studies.rows import Row, part
from lens_fv.tasks import Analogy, Pair, split_pairs

FOLDS = 3
"""Number of folds. Every relation is held out once, and its analogies are solved by maps learned on other folds."""
FORMS = ("temperature", "diagonal", "full")
PROBABILITY_TEMPERATURE = 10.0
"""Temperature for scores that are probabilities, between 0 and 1."""
MEASURES: Mapping[str, str] = {
    "top1_accuracy": "top1",
    "exact_match": "exact_match",
    "logprob_per_token_nats": "logprob",
    "mc_accuracy": "choice",
    "mc_accuracy_calibrated": "calibrated",
}


class Variant(NamedTuple):
    """Another way to compose.

    Attributes:
        options: Returns the options of `evaluate_analogies`.
        conditions: Conditions that are recorded, as "CONDITION, VARIANT".
    """

    options: Callable[[], dict[str, Any]]
    conditions: Sequence[str] = ("composite",)


def _folds_and_variants(run: RelationalRun) -> Iterator[tuple[int, str, int | str]]:
    for fold in range(FOLDS):
        yield from ((run.seed, kind, fold) for kind in ("relations", "pairs"))
    yield from ((run.seed, "variants", name) for name in _variants(run))


@part(_folds_and_variants)
def analogies(run: RelationalRun, seed: int, kind: str, name: int | str) -> Iterator[Row]:
    """Fit maps on two thirds of the relations; solve analogies of the other third and of the training relations' test pairs.

    The variants solve the analogies of the first third. Items are analogies.
    """
    if isinstance(name, str):
        yield from _solve_variant(run, name, _variants(run)[name])
        return
    problems = _problems(run, _held_out(run, name) if kind == "relations" else _trained(run, name)[name::FOLDS])
    result = evaluate_analogies(run.model, _basis(run), problems, maps=_maps(run, name), seed=seed, progress=run.progress)
    yield from _rows(result, {condition: condition for condition in result.conditions})
    entropy, gain = composite_features(result.weights, result.source_gain).T
    for relation, rows in result.by_relation().items():
        yield Row(relation, "composite", "is_far", result.far()[rows].float().tolist())
        yield Row(relation, "composite", "weight_entropy_nats", entropy[rows].tolist())
        yield Row(relation, "composite", "source_gain_nats_per_token", gain[rows].tolist())


def _held_out(run: RelationalRun, fold: int) -> list[str]:
    return list(run.tasks)[fold::FOLDS]


def _trained(run: RelationalRun, fold: int) -> list[str]:
    return [name for name in run.tasks if name not in _held_out(run, fold)]


def _basis(run: RelationalRun) -> VectorLibrary:
    return run.library("tuned", run.seed)


def _problems(run: RelationalRun, names: Sequence[str]) -> list[Analogy]:
    return reported_analogies(names, max_per_relation=run.settings.n_test_analogies, seed=run.seed)


def _rows(result: AnalogyEvaluation, conditions: Mapping[str, str]) -> Iterator[Row]:
    for name, rows in result.by_relation().items():
        for condition, recorded in conditions.items():
            for measure, attribute in MEASURES.items():
                values = getattr(result, attribute)[rows, result.conditions.index(condition)]
                yield Row(name, recorded, measure, values.float().tolist())


def _maps(run: RelationalRun, fold: int) -> dict[str, WeightMap]:
    """The fold's fitted maps, computed once."""
    paths = {form: run.folder / "maps" / f"{form}-{fold}.safetensors" for form in FORMS}
    if not all(path.is_file() for path in paths.values()):
        train, validation = training_analogies(
            _trained(run, fold), max_per_relation=run.settings.n_map_analogies, seed=run.seed
        )
        options = {"forms": FORMS, "seed": run.seed, "progress": run.progress}
        for form, weight_map in fit_maps(run.model, _basis(run), train, validation, **options).items():
            weight_map.save(paths[form])
    return {form: WeightMap.load(path) for form, path in paths.items()}


def _solve_variant(run: RelationalRun, name: str, variant: Variant) -> Iterator[Row]:
    options = {"library": _basis(run), "seed": run.seed, "progress": run.progress} | variant.options()
    result = evaluate_analogies(run.model, analogies=_problems(run, _held_out(run, 0)), **options)
    return _rows(result, {condition: f"{condition}, {name}" for condition in variant.conditions})


def _variants(run: RelationalRun) -> dict[str, Variant]:
    """Fewer weights, more source pairs, fewer basis vectors, extracted instead of tuned vectors, probabilities as scores."""
    with_prompts = ("composite", "few_shot", "few_shot_composite")
    return {
        **{f"{k} vector{'s' * (k > 1)}": Variant(partial(dict, top_k=k)) for k in (1, 3, 10)},
        **{f"{n} pairs": Variant(partial(_with_sources, run, n), with_prompts) for n in (2, 4, 8)},
        **{f"1/{share} of the basis": Variant(partial(_part_of_basis, run, share)) for share in (2, 4)},
        "extracted vectors": Variant(partial(_extracted, run), ("composite", "rescaled")),
        "probabilities as scores": Variant(partial(_by_probability, run), ("probability",)),
    }


def _with_sources(run: RelationalRun, n: int) -> dict[str, Any]:
    """Each analogy's A:B and n - 1 more training pairs of its relation that contain neither C nor an acceptable answer."""
    train = {task.name: split_pairs(task, seed=run.seed).train for task in run.tasks.values()}
    sources: list[list[Pair]] = []
    for a in _problems(run, _held_out(run, 0)):
        others = [pair for pair in train[a.relation] if pair.input not in (a.a, a.c) and pair.output not in (a.b, *a.d)]
        sources.append([a.source, *others][:n])
    return {"sources": sources}


def _part_of_basis(run: RelationalRun, share: int) -> dict[str, Any]:
    """A random part of the basis: one vector in `share`, at least two."""
    tuned = _basis(run)
    names = random.Random(run.seed).sample(tuned.names, len(tuned))
    return {"library": tuned.filter(names[: max(2, len(names) // share)])}


def _extracted(run: RelationalRun) -> dict[str, Any]:
    """Extracted vectors at the tuned vectors' layer, unchanged and scaled to their mean norm."""
    tuned = _basis(run)
    extracted = run.library("extracted", run.seed).at(tuned[tuned.names[0]].layer)
    norm, target = (library.basis(run.model).vectors.norm(dim=-1).mean() for library in (extracted, tuned))
    rescaled = softmax_map(run.model, extracted.basis(run.model), scale=float(target / norm))
    return {"library": extracted, "maps": {"rescaled": rescaled}}


def _by_probability(run: RelationalRun) -> dict[str, Any]:
    basis = _basis(run).basis(run.model)
    return {"maps": {"probability": softmax_map(run.model, basis, score="prob", temperature=PROBABILITY_TEMPERATURE)}}
