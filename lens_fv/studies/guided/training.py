"""Run one training sequence and evaluate its tasks."""

import shutil
from pathlib import Path
from typing import Any

from lens_fv.core.files import file_name
from lens_fv.dynamics import Trajectory, track_checkpoints
from lens_fv.finetuning import FinetuneRun, finetune, interpolate_weights, switch_to_checkpoint
from lens_fv.studies.guided.asking import Questions
from lens_fv.studies.guided.settings import CHOOSING, Method, Study
from lens_fv.studies.instruction.sequences import probe, vector
from lens_fv.studies.instruction.start import entered
from lens_fv.tasks import list_tasks, load_task
from lens_fv.vectors import FunctionVector, other_heads, random_like


def trained_and_asked(
    study: Study, method: Method, sequence: str, seed: int, name: str, path: Path | None = None
) -> dict[str, Any]:
    """Train a sequence, and evaluate its tasks after each of them and all tasks at the end.

    Args:
        study: study to run.
        method: training method.
        sequence: name of the sequence.
        seed: seed of the run.
        name: name of the run's folder, which is deleted at the end.
        path: file for the trajectory; None: vectors are not tracked.

    Returns:
        "trained": the tasks in order; "after": by task, the scores on the sequence's tasks after its training; "end": final
        scores on all tasks; "context": the same with demonstrations; "followed": see `means`, if a trajectory is written.
        Scores of the initial model are a separate record.
    """
    ground, folder = study.ground, study.folder / "runs" / file_name(name)
    run = _train(study, method, sequence, seed, folder)
    found: dict[str, Any] = {"trained": run.tasks, "after": {}}
    model, asked, names = ground.load(ground.start(seed)), _questions(study, sequence, seed), _names(study, sequence, seed)
    study.records("begin").get_or_compute(
        f"{seed}/{sequence}", lambda: {"end": asked.instructed(model, names), "context": asked.in_context(model, names)}
    )
    try:
        for last in (c for c in run.checkpoints if c.last):
            switch_to_checkpoint(model, run, last)
            found["after"][last.task] = asked.instructed(model, run.tasks)
        found |= {"end": asked.instructed(model, names), "context": asked.in_context(model, names)}
    finally:
        switch_to_checkpoint(model, run, None)
    if path is not None:
        probes = [probe(ground, task, seed, ranked=False) for task in entered(ground, seed).values()]
        trajectory = track_checkpoints(model, run, probes, folder=folder / "moments", seed=seed, progress=study.progress)
        trajectory.save(path)
        found["followed"] = means(trajectory)
    shutil.rmtree(folder, ignore_errors=True)
    return found


def means(trajectory: Trajectory) -> dict[str, list[list[float]]]:
    """Return each measure's mean over items, by checkpoint and task; "vectors" and "heads" are cosines to the initial ones."""
    measured = {
        "accuracy": trajectory.accuracy,
        "with_vector": trajectory.items("with_vector").nanmean(-1),
        "knowledge": trajectory.knowledge.nanmean(-1),
        "vectors": trajectory.similarity(),
        "heads": trajectory.head_similarity()[0].mean(-1),
        "alignment": trajectory.alignment.nanmean(-1),
    }
    return {name: values.tolist() for name, values in measured.items()}


def _names(study: Study, sequence: str, seed: int) -> list[str]:
    """Return the tasks to evaluate: those of the sequence, and all that the starting model performs."""
    trained = [task.name for task in study.ground.sequence(sequence)]
    return list(dict.fromkeys([*trained, *entered(study.ground, seed)]))


def _questions(study: Study, sequence: str, seed: int) -> Questions:
    s, ground = study.settings.ground, study.ground
    return Questions(
        ground.load(ground.start(seed)),
        [ground.tasks[name] for name in _names(study, sequence, seed)],
        part="validation" if sequence == CHOOSING else "test",
        max_items=s.max_items,
        n_context=s.n_context,
        seed=seed,
    )


def _train(study: Study, method: Method, sequence: str, seed: int, folder: Path) -> FinetuneRun:
    ground, progress = study.ground, study.progress
    settings = method.settings(study.settings.ground.training, seed)
    vectors: dict[str, FunctionVector] = {}
    if settings.guide is not None and settings.guide.needs_vector:
        vectors = {task.name: _vector(study, method, task, seed) for task in ground.sequence(sequence)}
    crosses = settings.guide is not None and settings.guide.uses_swap
    # tasks that are not evaluated
    others = [load_task(name) for name in list_tasks() if name not in ground.tasks] if crosses else ()
    # The runs of plain fine-tuning are still there when they are averaged.
    own = folder / "run" if method.training else study.folder / "runs" / file_name(f"{seed}-{sequence}")
    run = finetune(
        ground.start(seed),
        ground.sequence(sequence),
        own,
        settings,
        vectors=vectors,
        swap_tasks=others,
        **ground.place,
        progress=progress,
    )
    if method.share == 1:
        return run
    shutil.rmtree(folder / "average", ignore_errors=True)
    return interpolate_weights(run, folder / "average", share=method.share)


def _vector(study: Study, method: Method, task: Any, seed: int) -> FunctionVector:
    ground, model = study.ground, study.ground.load(study.ground.start(seed))
    found: FunctionVector = vector(ground, task, seed, n_heads=method.n_heads)
    if method.depth is not None:
        found = found.at(layer=round(method.depth * (model.n_layers - 1)))
    if method.control == "other heads":
        return other_heads(found, seed=seed)
    return random_like(found, seed=seed, heads=True) if method.control == "random vectors" else found
