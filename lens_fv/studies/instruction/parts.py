"""Parts of the study: the starting models, the sequences, and vectors in place of instructions."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from torch import Tensor

from lens_fv.core.files import file_name
from lens_fv.dynamics import TaskProbe, Trajectory, continual_metrics, make_task_probe, track_checkpoints, verdicts
from lens_fv.dynamics.trajectory import MEASURES
from lens_fv.evaluation import Evaluation, evaluate
from lens_fv.heads import competence, head_overlap, make_instruction_prompts, rank_heads, rank_instruction_heads
from lens_fv.heads.instructed import Uninformative
from lens_fv.studies.instruction.settings import Instructed
from lens_fv.studies.rows import Row, part
from lens_fv.tasks import Task
from lens_fv.vectors import FunctionVector, extract, sweep_injection

N_SHOTS = 5
"""Number of demonstrations in the prompts that function vectors are extracted from."""


@part(lambda study: product(study.settings.seeds, ("before", "after"), study.tasks))
def start(study: Instructed, seed: int, when: str, name: str) -> Iterator[Row]:
    """Score the original model ("before") and each seed's starting model ("after") on every task's validation pairs."""
    model, task = study.model if when == "before" else study.taught(seed), study.tasks[name]
    score = competence(model, task, n_shots=study.settings.n_shots, instruction=task.instructions, seed=seed)
    yield Row(name, when, "correct", score.right.float().tolist())
    yield Row(name, when, "majority_accuracy", score.majority)


@part(lambda study: product(study.settings.seeds, study.settings.sequences))
def sequences(study: Instructed, seed: int, name: str) -> Iterator[Row]:
    """Train every sequence and track its checkpoints; each trajectory is also saved in FOLDER/SEED-SEQUENCE."""
    folder, tasks = study.folder / f"{seed}-{file_name(name)}", study.sequence(name)
    config = replace(study.settings.training, mixed=False, seed=seed)
    run = study.finetune(study.start(seed), tasks, folder / "run", config)
    probes = [probe(study, task, seed) for task in study.entered(seed).values()]
    trajectory = track_checkpoints(
        study.taught(seed), run, probes, folder=folder / "moments", seed=seed, progress=study.progress
    )
    trajectory.save(folder / "trajectory.safetensors")
    yield from trajectory_rows(trajectory, name, seed, [task.name for task in tasks])


def trajectory_rows(trajectory: Trajectory, name: str, seed: int, trained: list[str]) -> Iterator[Row]:
    """The rows of one sequence: every measure at every checkpoint, metrics of the run, and what became of each task.

    Args:
        trajectory: Trajectory of the run.
        name: Name of the sequence.
        seed: Seed of the run.
        trained: Tasks of the sequence.
    """
    for t, task in enumerate(trajectory.tasks):
        for measure in MEASURES:
            for moment, items in zip(trajectory.checkpoints, trajectory.items(measure)[:, t]):
                measured = items[~items.isnan()]
                if len(measured):
                    yield Row(task, moment, measure, float(measured.mean()), len(measured))
    if set(trained) <= set(trajectory.tasks):
        metrics = continual_metrics(trajectory, trained)
        for metric in ("average", "final", "forgetting", "general", "in_context"):
            yield Row(name, "run", metric, _number(getattr(metrics, metric)))
        others = [t for t, p in enumerate(trajectory.present()) if p and trajectory.tasks[t] not in trained]
        yield Row(name, "run", "general_before", _number(trajectory.accuracy[0, others].mean()))
    cosines = {"vector": trajectory.similarity(), "residual_stream": trajectory.alignment.nanmean(-1)}
    for state, cosine in cosines.items():
        yield Row(f"{name}, seed {seed}", state, "correlation_with_accuracy", _correlation(trajectory, cosine))
    yield from _judgement_rows(trajectory, name, trained)


def _judgement_rows(trajectory: Trajectory, name: str, trained: list[str]) -> Iterator[Row]:
    """What became of each task; of lost tasks also the changes, the cosines to the initial state, and what vectors recover."""
    heads, random_heads = trajectory.head_similarity()
    similarity, overlaps = trajectory.similarity(), trajectory.head_overlaps()[-1]
    for t, verdict in enumerate(verdicts(trajectory)):
        unit = f"{name}/{verdict.task}"
        yield Row(unit, verdict.judgement, "trained" if verdict.task in trained else "not_trained", 1.0)
        for measure in ("before", "after", "with_vector", "with_random", "with_other"):
            yield Row(unit, "verdict", measure, getattr(verdict, measure).mean, verdict.before.n)
        for measure in ("p_lost", "p_restored", "recovery"):
            yield Row(unit, "verdict", measure, _number(getattr(verdict, measure)))
        if not verdict.lost:
            continue
        for measure in ("accuracy", "instruction", "knowledge"):
            items = trajectory.items(measure)[:, t]
            yield Row(unit, measure, "change", _number((items[-1] - items[0]).nanmean()))
        yield Row(unit, "vector", "cosine_to_initial", _number(similarity[-1, t]))
        yield Row(unit, "vector_heads", "cosine_to_initial", _number(heads[-1, t].mean()))
        yield Row(unit, "random_heads", "cosine_to_initial", _number(random_heads[-1, t].mean()))
        lost = verdict.before.mean - verdict.after.mean
        for added in ("with_vector", "with_random", "with_other"):
            share = (getattr(verdict, added).mean - verdict.after.mean) / lost if lost > 0 else None
            yield Row(unit, added, "recovered_share", share)
        if (overlap := overlaps[t]) is not None:
            yield Row(unit, "strongest_heads", "jaccard", overlap.jaccard)
            yield Row(unit, "random_heads", "jaccard", overlap.expected_jaccard)


def _entered(study: Instructed) -> Iterator[tuple[int, str, str]]:
    for seed in study.settings.seeds:
        for name in study.entered(seed):
            yield from ((seed, model, name) for model in ("taught", "untaught"))


@part(_entered)
def injection(study: Instructed, seed: int, model: str, name: str) -> Iterator[Row]:
    """Add vectors to test prompts without instructions.

    In the model that the vectors come from ("taught"): the instruction vector, the function vector of the same task, and both.
    In the original model ("untaught"): the instruction vector.
    """
    s, task = study.settings, study.tasks[name]
    instruction = vector(study, task, seed)
    options: dict[str, Any] = {"n_shots": N_SHOTS, "max_items": s.max_items, "seed": seed}
    if model == "untaught":
        yield from _accuracies(evaluate(study.model, task, {"instruction": instruction}, **options, force=True))
        return
    taught = study.taught(seed)
    ranking = rank_heads(taught, task, n_shots=N_SHOTS, n_clean=s.n_clean, n_trials=s.n_trials, seed=seed)
    function = extract(taught, task, ranking, n_heads=s.n_heads)
    function = sweep_injection(taught, task, function, scales=s.scales, max_items=s.max_items).best_vector(function)
    added = {"function": function, "instruction": instruction, "both": (instruction, function)}
    yield from _accuracies(evaluate(taught, task, added, **options))
    overlap = head_overlap(instruction.heads, function.heads, taught.n_layers * taught.n_heads)
    chance = {"chance": overlap.expected_jaccard, "p_value": overlap.p_value}
    measures = {"common": overlap.n_shared, "jaccard": overlap.jaccard, **chance}
    yield from (Row(name, "heads", measure, float(value)) for measure, value in measures.items())


@part(lambda study: product(study.settings.seeds[:1], study.settings.counterparts, study.entered(study.settings.seeds[0])))
def counterparts(study: Instructed, seed: int, kind: Uninformative, name: str) -> Iterator[Row]:
    """Rank heads against every counterpart, with the first seed."""
    model, task = study.taught(seed), study.tasks[name]
    usual, other = vector(study, task, seed), vector(study, task, seed, kind)
    max_items = study.settings.max_items
    evaluation = evaluate(model, task, {"instruction": other}, n_shots=N_SHOTS, max_items=max_items, seed=seed)
    yield Row(name, kind, "top1_accuracy", evaluation["instruction"].top1.mean)
    yield Row(name, kind, "jaccard", head_overlap(usual.heads, other.heads, model.n_layers * model.n_heads).jaccard)


def vector(
    study: Instructed,
    task: Task,
    seed: int,
    counterpart: Uninformative | None = None,
    *,
    n_heads: int | None = None,
) -> FunctionVector:
    """A task's vector in the starting model, at the layer and scale with the likeliest validation answers; cached."""
    s, kind = study.settings, counterpart or study.settings.counterpart
    folder = study.folder / f"vectors-{seed}" / (kind if n_heads is None else f"{kind}-{n_heads}")
    file = folder / f"{file_name(task.name)}.safetensors"
    if file.is_file():
        return FunctionVector.load(file)
    model = study.taught(seed)
    ranking = rank_instruction_heads(
        model,
        task,
        counterpart=kind,
        n_shots=s.n_shots,
        n_clean=s.n_clean,
        n_trials=s.n_trials,
        seed=seed,
        folder=study.folder / f"rankings-{seed}",
        progress=study.progress,
    )
    extracted = extract(model, task, ranking, n_heads=n_heads or s.n_heads)
    chosen = sweep_injection(model, task, extracted, scales=s.scales, max_items=s.max_items).best_vector(extracted)
    chosen.save(file)
    return chosen


def probe(study: Instructed, task: Task, seed: int, *, ranked: bool = True) -> TaskProbe:
    """A task's probe, optionally with prompts for ranking all heads again."""
    s, model = study.settings, study.taught(seed)
    patching_prompts = None
    if ranked:
        patching_prompts = make_instruction_prompts(
            model, task, counterpart=s.counterpart, n_shots=s.n_shots, n_clean=s.n_clean, n_trials=s.n_trials, seed=seed
        )
    return make_task_probe(
        model,
        task,
        vector(study, task, seed),
        patching_prompts=patching_prompts,
        n_shots=s.n_shots,
        n_context=s.n_context,
        max_items=s.max_items,
        seed=seed,
    )


def _accuracies(evaluation: Evaluation) -> Iterator[Row]:
    for result in evaluation.results:
        yield Row(evaluation.provenance.task, result.condition, "top1_accuracy", result.top1.mean, result.top1.n)


def _correlation(trajectory: Trajectory, cosine: Tensor) -> float | None:
    """Spearman's correlation of a cosine with accuracy, as changes from the start, over checkpoints and tasks present then."""
    present = trajectory.present()
    moved, accuracy = ((x[1:] - x[:1])[:, present].flatten().numpy() for x in (cosine, trajectory.accuracy))
    if not len(moved) or np.ptp(moved) == 0 or np.ptp(accuracy) == 0:  # constants have no correlation
        return None
    rank: Any = spearmanr(moved, accuracy)
    return float(rank.statistic)


def _number(value: float | Tensor) -> float | None:
    """A number for a row; NaN means that it was not measured."""
    return None if np.isnan(float(value)) else float(value)
