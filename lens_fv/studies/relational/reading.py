"""Decoding of vectors into their relation's words."""

from collections.abc import Mapping
from functools import partial
from typing import Any, get_args

from lens_fv.evaluation import evaluate_decoding
from lens_fv.evaluation.ranks import Measure, Of
from lens_fv.studies.records import stored_rows
from lens_fv.studies.relational.settings import Study

HOW: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "centred": {"centred": True},
    "through": {"through": True},
    "through, centred": {"through": True, "centred": True},
}
"""Decoding options: directly or through the later layers, with the whole vector or only what distinguishes a relation."""
MEASURES: tuple[Measure, ...] = ("median_rank", "best_reciprocal", "hit10")


def decode(study: Study) -> None:
    """Rank relation words and answers in the decoding of extracted and tuned vectors; one record per seed and option."""
    records = study.records("decoding")
    for seed in study.settings.seeds:
        for how, options in HOW.items():
            records.get_or_compute(f"{seed}/{how}", partial(_decoded, study, seed, options))


def _decoded(study: Study, seed: int, options: Mapping[str, Any]) -> dict[str, Any]:
    vectors = {"extracted": study.library("extracted", seed), "tuned": study.library("tuned", seed)}
    found = evaluate_decoding(study.model, list(study.tasks.values()), vectors, **options, seed=seed, progress=study.progress)
    pairs: list[tuple[Of, Measure]] = [(of, measure) for of in get_args(Of) for measure in MEASURES]
    return {
        "results": stored_rows(found.mean(c, measure, of=of) for of, measure in pairs for c in found.conditions),
        "differences": stored_rows(found.difference("extracted", "tuned", measure, of=of) for of, measure in pairs),
    }
