"""Every way to train, on every sequence: what is learned, and what is lost."""

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lens_fv.progress import progress_bar
from lens_fv.studies.bench import Subject, bench_guided
from lens_fv.studies.bench.guiding import METHODS as BENCHED
from lens_fv.studies.guided.asking import Questions
from lens_fv.studies.guided.settings import CHOOSING, Method, Study
from lens_fv.studies.instruction.sequences import probe, vector
from lens_fv.studies.instruction.start import entered
from lens_fv.tasks import list_tasks, load_task
from lens_fv.training import FinetuneRun, average, finetune, follow, switch
from lens_fv.vectors import FunctionVector, other_heads, random_like

CONTROLS: Mapping[str, tuple[str, Literal["random vectors", "other heads"]]] = {
    "random": ("fv", "random vectors"),
    "other-heads": ("crossed-heads", "other heads"),
}
"""Of which guide, and what it is guided by instead."""
REPEATS = 5
"""Of each step that is timed."""


def choose(study: Study) -> None:
    """Try every method's settings on the sequence to choose by, with the first seed: a record is one of them."""
    records, seed = study.records("choosing"), study.settings.ground.seeds[0]
    tried = [(name, i, method) for name, each in study.settings.methods.items() for i, method in enumerate(each)]
    with progress_bar("settings", len(tried), show=study.progress) as tick:
        for name, i, method in tried:
            records.once(f"{name}/{i}", partial(trained_and_asked, study, method, CHOOSING, seed, f"choosing-{name}-{i}"))
            tick()


def chosen(study: Study) -> dict[str, Method]:
    """Of every method the settings that keep most: by the mean of what is right of tasks learned and of tasks held out.

    Both behind instructions at the end of the sequence, on validation pairs.
    """
    records = dict(study.records("choosing").items())
    found: dict[str, Method] = {}
    for name, each in study.settings.methods.items():
        found[name] = each[best([kept(records[f"{name}/{i}"]) for i in range(len(each))])]
    return found | {name: replace(found[of], control=by) for name, (of, by) in CONTROLS.items() if of in found}


def best(tried: Sequence[tuple[float, float]]) -> int:
    """Which of what was tried keeps most; see `kept`."""
    return max(range(len(tried)), key=lambda i: sum(tried[i]))


def kept(record: Mapping[str, Any]) -> tuple[float, float]:
    """What is right at the end of a run, of tasks learned and of all others."""
    end, trained = record["end"], record["trained"]
    learned = [np.mean(right) for name, right in end.items() if name in trained]
    return float(np.mean(learned)), float(np.mean([np.mean(right) for name, right in end.items() if name not in trained]))


def compare_methods(study: Study) -> None:
    """Train every sequence that is reported with every method and seed: a record is one run.

    Of the first sequence, with the first seed, FOLDER/trajectories/METHOD.safetensors follows the tasks' vectors.
    """
    records, s, methods = study.records("methods"), study.settings, chosen(study)
    asked = [(seed, name, method) for seed in s.ground.seeds for name in s.reported for method in methods]
    with progress_bar("methods", len(asked), show=study.progress) as tick:
        for seed, name, method in asked:
            first = (seed, name) == (s.ground.seeds[0], s.reported[0])
            path = study.folder / "trajectories" / f"{method}.safetensors" if first else None
            make = partial(trained_and_asked, study, methods[method], name, seed, f"{seed}-{name}-{method}", path)
            records.once(f"{seed}/{name}/{method}", make)
            tick()


def ablate(study: Study) -> None:
    """Change one thing of a guide, on the first sequence with the first seed: a record is a change."""
    records, s, taken = study.records("ablations"), study.settings, chosen(study)
    changed = {name: taken[of].guided(**changes) for name, (of, changes) in s.ablations.items() if of in taken}
    for of in (name for name in ("fv", "crossed-heads") if name in taken):
        changed |= {f"{of}, {n} heads": replace(taken[of], n_heads=n) for n in s.head_counts}
    if "fv" in taken:
        changed |= {f"fv, at {depth:.0%} of the depth": replace(taken["fv"], depth=depth) for depth in s.depths}
    seed, sequence = s.ground.seeds[0], s.reported[0]
    with progress_bar("ablations", len(changed), show=study.progress) as tick:
        for name, method in changed.items():
            folder = re.sub(r"[^\w.-]+", "-", f"ablation-{name}")
            records.once(name, partial(trained_and_asked, study, method, sequence, seed, folder))
            tick()


def measure_costs(study: Study) -> None:
    """Time and memory of a step, of every method whose steps are not those of plain low-rank fine-tuning."""
    ground, names = study.ground, [name for name in study.settings.methods if name in BENCHED]
    subject = Subject(ground.load(ground.start(study.settings.ground.seeds[0])), ())
    rows = study.settings.ground.training.batch_size

    def measured() -> list[dict[str, Any]]:
        with progress_bar("costs", REPEATS, show=study.progress) as tick:
            return bench_guided(subject, methods=names, rows=rows, repeats=REPEATS, tick=tick).to_json()["steps"]

    study.records("costs").once("steps", measured)


def trained_and_asked(
    study: Study, method: Method, sequence: str, seed: int, name: str, path: Path | None = None
) -> dict[str, Any]:
    """Train a sequence, and ask about its tasks after each, and about all tasks at the end.

    Args:
        study: the study.
        method: how it is trained.
        sequence: which, by its name.
        seed: which.
        name: of the run's folder, which is removed in the end.
        path: where a trajectory is written, if one is wanted.

    Returns:
        "trained": the tasks in order; "after": by task, what is right of the trained ones then; "end": of all tasks;
        "context": the same with demonstrations. What it was at the beginning is a record of its own.
    """
    ground, folder = study.ground, study.folder / "runs" / name
    run = _train(study, method, sequence, seed, folder)
    found: dict[str, Any] = {"trained": run.tasks, "after": {}}
    model, asked, names = ground.load(ground.start(seed)), _questions(study, sequence, seed), _names(study, sequence, seed)
    study.records("begin").once(
        f"{seed}/{sequence}", lambda: {"end": asked.instructed(model, names), "context": asked.in_context(model, names)}
    )
    try:
        for last in (c for c in run.checkpoints if c.last):
            switch(model, run, last)
            found["after"][last.task] = asked.instructed(model, run.tasks)
        found |= {"end": asked.instructed(model, names), "context": asked.in_context(model, names)}
    finally:
        switch(model, run, None)
    if path is not None:
        probes = [probe(ground, task, seed, ranked=False) for task in entered(ground, seed).values()]
        follow(model, run, probes, folder=folder / "moments", seed=seed, progress=study.progress).save(path)
    shutil.rmtree(folder, ignore_errors=True)
    return found


def _names(study: Study, sequence: str, seed: int) -> list[str]:
    """Tasks that are asked about: those of the sequence, and all that the model follows at the beginning."""
    trained = [task.name for task in study.ground.sequence(sequence)]
    return list(dict.fromkeys([*trained, *entered(study.ground, seed)]))


def _questions(study: Study, sequence: str, seed: int) -> Questions:
    s, ground = study.settings.ground, study.ground
    return Questions(
        ground.load(ground.start(seed)),
        [ground.tasks[name] for name in _names(study, sequence, seed)],
        part="validation" if sequence == CHOOSING else "test",
        most_items=s.most_items,
        n_context=s.n_context,
        seed=seed,
    )


def _train(study: Study, method: Method, sequence: str, seed: int, folder: Path) -> FinetuneRun:
    ground, progress = study.ground, study.progress
    settings = method.settings(study.settings.ground.training, seed)
    vectors: dict[str, FunctionVector] = {}
    if settings.guide is not None and settings.guide.takes_vector:
        vectors = {task.name: _vector(study, method, task, seed) for task in ground.sequence(sequence)}
    crosses = settings.guide is not None and settings.guide.crosses
    # none that is asked about
    others = [load_task(name) for name in list_tasks() if name not in ground.tasks] if crosses else ()
    run = finetune(
        ground.start(seed),
        ground.sequence(sequence),
        folder / "run",
        settings,
        vectors=vectors,
        others=others,
        **ground.place,
        progress=progress,
    )
    if method.share == 1:
        return run
    shutil.rmtree(folder / "average", ignore_errors=True)
    return average(run, folder / "average", share=method.share)


def _vector(study: Study, method: Method, task: Any, seed: int) -> FunctionVector:
    ground, model = study.ground, study.ground.load(study.ground.start(seed))
    found: FunctionVector = vector(ground, task, seed, n_heads=method.n_heads)
    if method.depth is not None:
        found = found.at(layer=round(method.depth * (model.n_layers - 1)))
    if method.control == "other heads":
        return other_heads(found, seed=seed)
    return random_like(found, seed=seed, heads=True) if method.control == "random vectors" else found
