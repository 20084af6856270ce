"""Vector arithmetic on tasks over lists of words, following Todd et al. (2024)."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from lens_fv.composition.recipes import middle_layer
from lens_fv.core.progress import progress_bar
from lens_fv.evaluation import compose_lists
from lens_fv.studies.records import stored_rows
from lens_fv.studies.relational.settings import Study
from lens_fv.tasks import TODD, Task, split_pairs
from lens_fv.vectors import FunctionVector

LISTED = ("antonym", "country-capital", "present-past")


def add_up(study: Study) -> None:
    """Predict the vector of "the last word's output" from three others; one record per relation and vector type."""
    records, tasks, seed = study.records("lists"), study.some(LISTED), study.settings.seeds[0]
    with progress_bar("lists", 2 * len(tasks), show=study.progress) as tick:
        for name in tasks:
            for method in ("tuned", "extracted"):
                records.get_or_compute(f"{seed}/{name}/{method}", partial(_composed, study, name, method, seed))
                tick()


def _composed(study: Study, name: str, method: str, seed: int) -> list[dict[str, Any]]:
    s = study.settings
    make = partial(_extracted, study, seed) if method == "extracted" else None
    found = compose_lists(study.model, study.tasks[name], make, n_shots=s.n_shots, max_items=s.max_items, seed=seed)
    return stored_rows(found.evaluation.results)


def _extracted(study: Study, seed: int, tasks: Sequence[Task]) -> list[FunctionVector]:
    recipe = study.extracted(middle_layer(study.model))
    splits = {task.name: split_pairs(task, seed=seed) for task in tasks}
    return recipe.make(study.model, tasks, splits, template=TODD, seed=seed)
