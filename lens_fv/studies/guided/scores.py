"""Scores of a trained sequence: prompts, accuracies after each task and at the end, metrics, and tracked trajectories."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from lens_fv.core.files import file_name
from lens_fv.dynamics import CheckpointMeasurement, TaskProbe, Trajectory, measure_checkpoint
from lens_fv.finetuning import FinetuneRun, switch_to_checkpoint
from lens_fv.model import LensModel
from lens_fv.patching import score_alike, score_answers
from lens_fv.studies.guided.settings import CHOOSING, Guided
from lens_fv.studies.instruction.parts import probe
from lens_fv.studies.rows import Row
from lens_fv.tasks import EncodedPrompt, build_prompts, encode_prompts, few_shot, split_pairs

Prompts = Mapping[str, tuple[list[EncodedPrompt], list[EncodedPrompt]]]
"""By task, its prompts with an instruction, and with an instruction and demonstrations."""


def make_prompts(study: Guided, sequence: str, seed: int) -> Prompts:
    """Prompts of the tasks to score: those of the sequence, and all that the starting model performs.

    Settings are chosen on validation pairs, and numbers reported on test pairs. In-context prompts use one set of
    demonstrations for each instruction.
    """
    s, model = study.settings, study.taught(seed)
    prompts: dict[str, tuple[list[EncodedPrompt], list[EncodedPrompt]]] = {}
    for name in dict.fromkeys([*(task.name for task in study.sequence(sequence)), *study.entered(seed)]):
        task = study.tasks[name]
        split, instructions = split_pairs(task, seed=seed), task.instructions
        items = (split.validation if sequence == CHOOSING else split.test)[: s.max_items]
        instructed = build_prompts(items, split.train, n_shots=0, instruction=instructions, seed=seed)
        templates = build_prompts(items[: len(instructions)], split.train, n_shots=s.n_context, seed=seed)
        demonstrations = itertools.cycle(prompt.demonstrations for prompt in templates)
        in_context = [
            few_shot(pair, shots, instruction=instruction)
            for pair, shots, instruction in zip(items, demonstrations, itertools.cycle(instructions))
        ]
        prompts[name] = encode_prompts(model, instructed), encode_prompts(model, in_context)
    return prompts


def metric_rows(scores: Sequence[Row], trained: Sequence[str], run: str) -> list[Row]:
    """Metrics of a run (Jiang et al. 2025): means over tasks of the fraction of prompts with an exact match.

    "average": trained tasks, each right after its training (AP); "final": at the end (FP); "forgetting": their difference;
    "general": other tasks at the end (GP); "in_context": the same with demonstrations (IP).
    """
    accuracy: dict[tuple[str, str], float] = {(row.measure, row.unit): np.mean(cast(Any, row.value)) for row in scores}
    others = [task for measure, task in accuracy if measure == "exact_match" and task not in trained]
    learned = [accuracy[key] for task in trained if (key := (f"exact_match_after_{task}", task)) in accuracy]
    final = np.mean([accuracy["exact_match", task] for task in trained])
    values = {"average": np.mean(learned), "final": final, "forgetting": np.mean(learned) - final} if learned else {}
    if others:
        values["general"] = np.mean([accuracy["exact_match", task] for task in others])
        values["in_context"] = np.mean([accuracy["exact_match_in_context", task] for task in others])
    return [Row(run, scores[0].condition, measure, float(value)) for measure, value in values.items()]


def score_run(study: Guided, run: FinetuneRun, prompts: Prompts, name: str, seed: int, *, tracked: bool) -> list[Row]:
    """Score a sequence's tasks after each of them, and all tasks at the end; each checkpoint is loaded once."""
    model, folder, rows = study.taught(seed), study.folder / "trajectories", list[Row]()
    probes = [probe(study, task, seed, ranked=False) for task in study.entered(seed).values()] if tracked else []
    measured = [_initial(model, probes, folder / "initial.safetensors", seed)] if tracked else []
    try:
        for checkpoint in run.checkpoints:
            if checkpoint.last or tracked:
                switch_to_checkpoint(model, run, checkpoint)
            if checkpoint.last:
                measure = f"exact_match_after_{checkpoint.task}"
                rows += [Row(task, name, measure, _correct(model, prompts[task][0])) for task in run.tasks]
            if tracked:
                moment = {"name": checkpoint.name, "step": checkpoint.total, "all_measures": checkpoint.last}
                measured.append(measure_checkpoint(model, probes, **moment, seed=seed))
        rows += final_rows(model, prompts, name)
    finally:
        switch_to_checkpoint(model, run, None)
    if tracked:
        trajectory = Trajectory.of(measured)
        trajectory.save(folder / f"{file_name(name)}.safetensors")
        rows += trajectory_rows(trajectory, name)
    return rows


def _initial(model: LensModel, probes: Sequence[TaskProbe], file: Path, seed: int) -> CheckpointMeasurement:
    """The measurement of the model that all tracked runs start from; kept in a file."""
    if file.is_file():
        return CheckpointMeasurement.load(file)
    initial = measure_checkpoint(model, probes, seed=seed)
    initial.save(file)
    return initial


def trajectory_rows(trajectory: Trajectory, name: str) -> Iterator[Row]:
    """Means over items at each checkpoint, by task and measure; cosines of vectors and heads are to the initial ones."""
    measures = {
        "exact_match": trajectory.accuracy,
        "exact_match_with_vector": trajectory.items("with_vector").nanmean(-1),
        "knowledge_logprob_per_token_nats": trajectory.items("knowledge").nanmean(-1),
        "vector_cosine": trajectory.similarity(),
        "head_cosine": trajectory.head_similarity()[0].mean(-1),
        "residual_cosine": trajectory.alignment.nanmean(-1),
    }
    for measure, by_checkpoint in measures.items():
        for task, values in zip(trajectory.tasks, by_checkpoint.T.tolist(), strict=True):
            yield Row(task, name, f"checkpoint_{measure}", [None if np.isnan(value) else value for value in values])


def final_rows(model: LensModel, prompts: Prompts, name: str) -> list[Row]:
    """Scores of all tasks, after the instruction alone and in context."""
    rows = [Row(task, name, "exact_match", _correct(model, instructed)) for task, (instructed, _) in prompts.items()]
    for task, (_, in_context) in prompts.items():
        rows.append(Row(task, name, "exact_match_in_context", _correct(model, in_context, alike=True)))
    return rows


@torch.no_grad()
def _correct(model: LensModel, prompts: Sequence[EncodedPrompt], *, alike: bool = False) -> list[float]:
    """For each prompt 1 if greedy decoding produces an acceptable answer, else 0."""
    scores = score_alike(model, prompts) if alike else score_answers(model, prompts, [[]])
    return scores.exact_match[:, 0].float().tolist()
