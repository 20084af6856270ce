"""Where to inject a vector in models with a norm after attention."""

from dataclasses import replace
from functools import partial
from typing import Any

import torch

from lens_fv.core.progress import progress_bar
from lens_fv.evaluation import evaluate
from lens_fv.heads import rank_heads
from lens_fv.studies.records import stored_rows
from lens_fv.studies.relational.settings import Study
from lens_fv.tasks import split_pairs
from lens_fv.vectors import extract


def carry(study: Study) -> None:
    """Compare extracted vectors with and without the norm after attention, and at their heads; one record per relation.

    "naive" sums the heads' projected outputs as if they entered the residual stream unchanged. "carried" passes the sum
    through the linear part of the norm, as the model does. "heads" patches each head's mean output into its own layer.
    """
    records, tasks, seed = study.records("carrying"), study.some(study.settings.few), study.settings.seeds[0]
    with progress_bar("carrying norms", len(tasks), show=study.progress) as tick:
        for name in tasks:
            records.get_or_compute(f"{seed}/{name}", partial(_carried, study, name, seed))
            tick()


def _carried(study: Study, name: str, seed: int) -> list[dict[str, Any]]:
    s, task = study.settings, study.tasks[name]
    split = split_pairs(task, seed=seed)
    ranking = rank_heads(study.model, task, split=split, n_shots=s.n_shots, n_clean=s.n_clean, n_trials=s.n_trials, seed=seed)
    plain = replace(ranking, post_attn_gain=torch.ones_like(ranking.post_attn_gain))
    carried = extract(study.model, task, ranking, n_heads=s.n_heads, split=split)
    vectors = {
        "naive": extract(study.model, task, plain, n_heads=s.n_heads, split=split),
        "carried": carried,
        "heads": carried.at(site="heads"),
    }
    found = evaluate(
        study.model, task, vectors, split=split, n_shots=s.n_shots, same_shots=True, max_items=s.max_items, seed=seed
    )
    return stored_rows(found.results)
