"""Relation completion with tuned and extracted vectors, compared with controls."""

from functools import partial
from typing import Any

import torch

from lens_fv.core.progress import progress_bar
from lens_fv.evaluation import evaluate
from lens_fv.patching import score_answers
from lens_fv.studies.records import stored_rows
from lens_fv.studies.relational.settings import Study
from lens_fv.tasks import encode_prompts, split_pairs, zero_shot
from lens_fv.vectors import FunctionVector

FEW_ITEMS = 5
"""Number of test pairs per relation in the transfer of vectors between relations."""


def complete(study: Study) -> None:
    """Evaluate the vectors of every relation and seed on test pairs.

    Conditions in addition to those of `evaluate`: "extracted" (layer chosen on validation pairs), "heads" (the same heads,
    each in its own layer), "extracted_matched" (at the tuned vector's layer, with its norm), "tuned", and for the first seed
    "shuffled" (tuned on wrong answers).
    """
    records = study.records("completion")
    study.library("shuffled", study.settings.seeds[0])
    for seed in study.settings.seeds:
        for method in ("extracted", "tuned"):
            study.library(method, seed)
        with progress_bar(f"completion, seed {seed}", len(study.tasks), show=study.progress) as tick:
            for name in study.tasks:
                records.get_or_compute(f"{seed}/{name}", partial(_completion, study, name, seed))
                tick()


def _completion(study: Study, name: str, seed: int) -> list[dict[str, Any]]:
    s = study.settings
    extracted, tuned = study.library("extracted", seed)[name], study.library("tuned", seed)[name]
    vectors = {
        "extracted": extracted,
        "heads": extracted.at(site="heads"),
        "extracted_matched": matched(extracted, tuned),
        "tuned": tuned,
    }
    if seed == s.seeds[0]:
        vectors = {"shuffled": study.library("shuffled", seed)[name], **vectors}
    shots = {"n_shots": s.n_shots, "same_shots": True}
    found = evaluate(study.model, study.tasks[name], vectors, **shots, max_items=s.max_items, seed=seed)
    return stored_rows(found.results)


def matched(vector: FunctionVector, like: FunctionVector) -> FunctionVector:
    """A vector moved to another vector's layer and scaled to its norm."""
    length = float(vector.vector.norm())
    return vector.at(layer=like.layer, scale=float(like.vector.norm()) * like.scale / length if length else 0.0)


@torch.no_grad()
def transfer(study: Study) -> None:
    """Evaluate every relation's tuned vector on every relation.

    The record of a relation holds, for each vector in the order of the relations, first-token accuracy and gain in
    log-probability.
    """
    records, seed = study.records("transfer"), study.settings.seeds[0]
    library = study.library("tuned", seed)
    with progress_bar("every vector on every relation", len(study.tasks), show=study.progress) as tick:
        for name in study.tasks:
            records.get_or_compute(name, partial(_tried, study, name, [library[other] for other in study.tasks], seed))
            tick()


def _tried(study: Study, name: str, vectors: list[FunctionVector], seed: int) -> dict[str, list[float]]:
    items = split_pairs(study.tasks[name], seed=seed).test[:FEW_ITEMS]
    prompts = encode_prompts(study.model, [zero_shot(pair) for pair in items])
    scores = score_answers(study.model, prompts, [[], *(vector.edits() for vector in vectors)])
    gain = (scores.logprob[:, 1:] - scores.logprob[:, :1]).mean(0)
    return {"top1": scores.top1[:, 1:].float().mean(0).tolist(), "gain": gain.tolist()}
