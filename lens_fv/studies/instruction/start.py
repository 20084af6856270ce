"""Teach the model a mixture of the tasks, and select the tasks that it then performs."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lens_fv.core.progress import progress_bar
from lens_fv.core.statistics import proportion
from lens_fv.errors import LensFVError
from lens_fv.finetuning import export_checkpoint, finetune
from lens_fv.heads import competence
from lens_fv.studies.instruction.settings import Study
from lens_fv.tasks import Task


def teach(study: Study) -> None:
    """Train each seed's starting model, and score it and the original model on every task's validation pairs."""
    records, s = study.records("start"), study.settings
    for seed in s.seeds:
        taught = study.start(seed)
        if s.mixture and not Path(taught).is_dir():
            settings = replace(s.mixture, mixed=True, seed=seed)
            folder = study.folder / f"mixture-{seed}"
            tasks = list(study.tasks.values())
            run = finetune(study.model, tasks, folder, settings, **study.place, progress=study.progress)
            export_checkpoint(run, taught)
        with progress_bar(f"who follows instructions, seed {seed}", 2 * len(study.tasks), show=study.progress) as tick:
            for when, model in (("before", study.model), ("after", taught)):
                for name, task in study.tasks.items():
                    records.get_or_compute(f"{seed}/{when}/{name}", partial(_followed, study, model, task, seed))
                    tick()


def _followed(study: Study, model: str | Path, task: Task, seed: int) -> dict[str, Any]:
    found = competence(study.load(model), task, n_shots=study.settings.n_shots, instruction=task.instructions, seed=seed)
    return {"right": found.right.tolist(), "majority": found.majority}


def entered(study: Study, seed: int) -> dict[str, Task]:
    """Return the tasks that the starting model performs above the majority baseline, by the whole interval of its accuracy.

    Raises:
        LensFVError: no task qualifies.
    """
    records = dict(study.records("start").items())
    found = {name: task for name, task in study.tasks.items() if enters(records[f"{seed}/after/{name}"])}
    if not found:
        raise LensFVError(
            f"follow fine-tuning of {study.model} with seed {seed}: at the start it follows none of {', '.join(study.tasks)}; "
            "choose other tasks, or teach it more of the mixture"
        )
    return found


def enters(record: dict[str, Any]) -> bool:
    """Whether the task of this record enters the study."""
    right = record["right"]
    return proportion(sum(right), len(right)).ci_low > record["majority"]
