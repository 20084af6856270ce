"""Composite vectors on analogies of held-out relations."""

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lens_fv.composition import VectorLibrary, WeightMap, composite_features, fit_confidence, fit_maps, roc_auc, softmax_map
from lens_fv.evaluation import AnalogyEvaluation, evaluate_analogies
from lens_fv.studies.relational.problems import reported_analogies, several_sources, training_analogies
from lens_fv.studies.relational.settings import Study
from lens_fv.tasks import Analogy

FOLDS = 3
"""Number of folds. Every relation is held out once, and its analogies are solved by maps learned on other folds."""


def solve(study: Study) -> None:
    """Fit maps on two thirds of the relations; solve analogies of the other third and of the training relations' test pairs.

    Each fold and each variant has one record, with the values per analogy that are needed to pool the folds.
    """
    records = study.records("analogies")
    for fold in range(FOLDS):
        records.get_or_compute(f"{fold}/relations", partial(_solved, study, fold, _held_out(study, fold)))
        records.get_or_compute(f"{fold}/pairs", partial(_solved, study, fold, _trained(study, fold)[fold::FOLDS]))
    problems = _problems(study, _held_out(study, 0))
    for name, options in _variants(study, problems).items():
        records.get_or_compute(f"0/variants/{name}", partial(_varied, study, problems, options))


def _held_out(study: Study, fold: int) -> list[str]:
    return list(study.tasks)[fold::FOLDS]


def _trained(study: Study, fold: int) -> list[str]:
    held_out = _held_out(study, fold)
    return [name for name in study.tasks if name not in held_out]


def _basis(study: Study) -> VectorLibrary:
    return study.library("tuned", study.settings.seeds[0])


def _maps(study: Study, fold: int) -> dict[str, WeightMap]:
    """The fold's fitted maps, computed once."""
    seed, paths = study.settings.seeds[0], {form: study.folder / "maps" / f"{form}-{fold}.safetensors" for form in FORMS}
    if not all(path.is_file() for path in paths.values()):
        train, chosen_on = training_analogies(_trained(study, fold), most=study.settings.n_analogies[0], seed=seed)
        for form, found in fit_maps(
            study.model, _basis(study), train, chosen_on, forms=FORMS, seed=seed, progress=study.progress
        ).items():
            found.save(paths[form])
    return {form: WeightMap.load(path) for form, path in paths.items()}


FORMS = ("temperature", "diagonal", "full")


def _problems(study: Study, names: Sequence[str]) -> list[Analogy]:
    return reported_analogies(names, most=study.settings.n_analogies[1], seed=study.settings.seeds[0])


def _solved(study: Study, fold: int, names: Sequence[str]) -> dict[str, Any]:
    found = evaluate_analogies(
        study.model,
        _basis(study),
        _problems(study, names),
        maps=_maps(study, fold),
        seed=study.settings.seeds[0],
        progress=study.progress,
    )
    return _kept(found)


def _kept(found: AnalogyEvaluation) -> dict[str, Any]:
    """The values per analogy that are needed to pool the folds."""
    features = composite_features(found.weights, found.source_gain)
    return {
        "conditions": found.conditions,
        "relations": found.relations,
        "far": found.far().tolist(),
        "features": features.tolist(),
        "full": found.exact_match.float().tolist(),
        **{key: getattr(found, key).float().tolist() for key in ("top1", "logprob", "choice", "calibrated")},
    }


def _variants(study: Study, problems: Sequence[Analogy]) -> dict[str, Callable[[], dict[str, Any]]]:
    """Options of the variants, built on demand: few weights, more pairs, fewer vectors, untuned vectors, probabilities."""
    seed = study.settings.seeds[0]
    return {
        **{f"top {k}": partial(dict, top_k=k) for k in (1, 3, 10)},
        **{f"{n} pairs": lambda n=n: {"sources": several_sources(problems, n, seed=seed)} for n in (2, 4, 8)},
        **{f"1/{share} of the basis": lambda share=share: {"library": _part(study, share)} for share in (2, 4)},
        "untuned": lambda: _untuned(study),
        "scores": lambda: {
            "maps": {
                "probability": softmax_map(study.model, _basis(study).basis(study.model), score="prob", temperature=PROBABILITY)
            }
        },
    }


def _part(study: Study, share: int) -> VectorLibrary:
    """A random part of the basis: one vector in `share`, at least two."""
    tuned = _basis(study)
    names = random.Random(study.settings.seeds[0]).sample(tuned.names, len(tuned))
    return tuned.filter(names[: max(2, len(names) // share)])


def _untuned(study: Study) -> dict[str, Any]:
    """Extracted vectors at the tuned vectors' layer, unchanged and scaled to their mean norm."""
    tuned = _basis(study)
    untuned = study.library("extracted", study.settings.seeds[0]).at(tuned[tuned.names[0]].layer)
    rows, ours = untuned.basis(study.model), tuned.basis(study.model)
    longer = float(ours.vectors.norm(dim=-1).mean() / rows.vectors.norm(dim=-1).mean())
    return {"library": untuned, "maps": {"lengthened": softmax_map(study.model, rows, scale=longer)}}


def _varied(study: Study, problems: Sequence[Analogy], options: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    given: dict[str, Any] = {"library": _basis(study), "seed": study.settings.seeds[0], "progress": study.progress} | options()
    return _kept(evaluate_analogies(study.model, analogies=problems, **given))


PROBABILITY = 10.0
"""Temperature for scores that are probabilities, between 0 and 1."""


def confidence(features: Tensor, helped: Tensor, fold: Tensor) -> tuple[Tensor, tuple[float, float]]:
    """Probability that each composite helps, learned on the other folds, with its area under the ROC curve and p-value."""
    found = torch.zeros(len(helped))
    for at in fold.unique().tolist():
        own = fold == at
        found[own] = fit_confidence(features[~own], helped[~own])(features[own])
    return found, roc_auc(found, helped)
