"""Parts of the study: settings are chosen, methods compared, guides ablated and training steps timed."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from lens_fv.core.files import file_lock, file_name
from lens_fv.dynamics import CheckpointMeasurement, TaskProbe, Trajectory, measure_checkpoint
from lens_fv.errors import LensFVError
from lens_fv.finetuning import FinetuneRun, finetune, interpolate_weights, switch_to_checkpoint
from lens_fv.model import LensModel
from lens_fv.patching import score_alike, score_answers
from lens_fv.studies.bench import Subject, bench_guided
from lens_fv.studies.bench.training import METHODS as TIMED
from lens_fv.studies.guided.settings import CHOOSING, CONTROLS, Changes, Guided, Recipe, condition, method_of
from lens_fv.studies.instruction.parts import probe, vector
from lens_fv.studies.rows import Job, Row, frame
from lens_fv.studies.tables import Table
from lens_fv.tasks import EncodedPrompt, Task, build_prompts, encode_prompts, few_shot, list_tasks, load_task, split_pairs
from lens_fv.vectors import FunctionVector, other_heads, random_like

if TYPE_CHECKING:
    import pandas as pd

METRICS = ("average", "final", "forgetting", "general", "in_context")
Prompts = Mapping[str, tuple[list[EncodedPrompt], list[EncodedPrompt]]]
"""By task, its prompts with an instruction, and with an instruction and demonstrations."""


def choosing(study: Guided) -> Iterator[Job]:
    """Train the sequence `CHOOSING` with every candidate setting of every method and the first seed."""
    s, seed = study.settings, study.settings.seeds[0]
    yield _job(study, "choosing", CHOOSING, seed, "initial")
    for method, candidates in s.methods.items():
        for changes in candidates:
            yield _job(study, "choosing", CHOOSING, seed, condition(method, changes), s.recipe(method, changes, seed=seed))


def best_candidates(rows: "pd.DataFrame", methods: Mapping[str, Sequence[Changes]]) -> dict[str, str]:
    """For each method that was tried with all its settings, the condition with the best mean of "final" and "general"."""
    table, best = Table(where={"part": "choosing", "measure": METRICS}).estimates(rows), dict[str, str]()
    for method, candidates in methods.items():
        names = [condition(method, changes) for changes in candidates]
        if set(names) <= table.keys():
            best[method] = max(names, key=lambda name: table[name]["final"].mean + table[name]["general"].mean)
    return best


def chosen(study: Guided) -> dict[str, Changes]:
    """The settings of each method that did best on the validation pairs of the sequence `CHOOSING`, and those of controls.

    Raises:
        LensFVError: settings have not been tried yet.
    """
    best, settings = best_candidates(frame([study.rows]), study.settings.methods), dict[str, Changes]()
    for method, candidates in study.settings.methods.items():
        if method not in best:
            raise LensFVError(f"choose settings of {method}: not all of them have been tried; run the part choosing first")
        settings[method] = next(changes for changes in candidates if condition(method, changes) == best[method])
    return settings | {name: {**settings[of], "control": by} for name, (of, by) in CONTROLS.items() if of in settings}


def methods(study: Guided) -> Iterator[Job]:
    """Train every reported sequence with every method and seed.

    For the first sequence and seed, the tasks' vectors are tracked in FOLDER/trajectories/METHOD.safetensors.
    """
    s, settings = study.settings, chosen(study)
    for seed, sequence in product(s.seeds, s.reported):
        yield _job(study, "methods", sequence, seed, "initial")
        for method, changes in settings.items():
            recipe = s.recipe(CONTROLS.get(method, (method,))[0], changes, seed=seed)
            tracked = (seed, sequence) == (s.seeds[0], s.reported[0])
            yield _job(study, "methods", sequence, seed, method, recipe, tracked=tracked)


def ablations(study: Guided) -> Iterator[Job]:
    """Change one setting of a method at a time, on the first sequence with the first seed."""
    s, seed, settings = study.settings, study.settings.seeds[0], chosen(study)
    for name, changes in s.ablations.items():
        if (method := method_of(name)) in settings:
            recipe = s.recipe(method, settings[method], changes, seed=seed)
            yield _job(study, "ablations", s.reported[0], seed, name, recipe)


def costs(study: Guided) -> Iterator[Job]:
    """Measure time and memory of a training step, for every method with steps that differ from plain low-rank fine-tuning."""

    def rows() -> Iterator[Row]:
        s, subject = study.settings, Subject(study.taught(study.settings.seeds[0]), ())
        names = [name for name in s.methods if name in TIMED]
        bench = bench_guided(subject, methods=names, rows=s.training.batch_size, repeats=s.n_timings)
        for step in bench.measures["steps"]:
            yield Row("step", step["method"], "seconds", step["seconds"], s.n_timings)
            yield Row("step", step["method"], "time_ratio", step["time_ratio"], s.n_timings)
            yield Row("step", step["method"], "peak_memory_bytes", step["bytes"])
            yield Row("step", step["method"], "memory_ratio", step["memory_ratio"])

    yield Job("costs", "steps", rows, study.settings.seeds[0])


def _job(
    study: Guided, part: str, sequence: str, seed: int, name: str, recipe: Recipe | None = None, *, tracked: bool = False
) -> Job:
    """Train a sequence and score the tasks; without a recipe, score the model that it starts from."""

    def rows() -> list[Row]:
        prompts, trained = _prompts(study, sequence, seed), [task.name for task in study.sequence(sequence)]
        if recipe is None:
            scores = _final_rows(study.taught(seed), prompts, name)
        else:
            folder = study.folder / "runs" / file_name(f"{part}-{seed}-{sequence}-{name}")
            scores = _score(study, _train(study, sequence, recipe, folder), prompts, name, seed, tracked=tracked)
            shutil.rmtree(folder, ignore_errors=True)
        return scores + metric_rows(scores, trained, f"{seed}/{sequence}")

    return Job(part, f"{sequence}/{name}", rows, seed)


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


def _score(study: Guided, run: FinetuneRun, prompts: Prompts, name: str, seed: int, *, tracked: bool) -> list[Row]:
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
                at, step, last = checkpoint.name, checkpoint.total, checkpoint.last
                measured.append(measure_checkpoint(model, probes, name=at, step=step, all_measures=last, seed=seed))
        rows += _final_rows(model, prompts, name)
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


def _prompts(study: Guided, sequence: str, seed: int) -> Prompts:
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
        few = build_prompts(items[: len(instructions)], split.train, n_shots=s.n_context, seed=seed)
        in_context = [
            few_shot(pair, few[i % len(few)].demonstrations, instruction=instructions[i % len(instructions)])
            for i, pair in enumerate(items)
        ]
        prompts[name] = encode_prompts(model, instructed), encode_prompts(model, in_context)
    return prompts


def _final_rows(model: LensModel, prompts: Prompts, name: str) -> list[Row]:
    instructed = [Row(task, name, "exact_match", _correct(model, own)) for task, (own, _) in prompts.items()]
    return instructed + [
        Row(task, name, "exact_match_in_context", _correct(model, own, alike=True)) for task, (_, own) in prompts.items()
    ]


@torch.no_grad()
def _correct(model: LensModel, prompts: Sequence[EncodedPrompt], *, alike: bool = False) -> list[float]:
    """For each prompt 1 if greedy decoding produces an acceptable answer, else 0."""
    scores = score_alike(model, prompts) if alike else score_answers(model, prompts, [[]])
    return scores.exact_match[:, 0].float().tolist()


def _train(study: Guided, sequence: str, recipe: Recipe, folder: Path) -> FinetuneRun:
    config, seed, tasks = recipe.config, recipe.config.seed, study.sequence(sequence)
    guide = config.guide
    vectors: dict[str, FunctionVector] = {}
    if guide is not None and guide.needs_vector:
        vectors = {task.name: _vector(study, recipe, task) for task in tasks}
    swap_tasks: list[Task] = []
    if guide is not None and guide.uses_swap:  # tasks that are not scored
        swap_tasks = [load_task(name) for name in list_tasks() if name not in study.tasks]
    plain = config == study.settings.recipe("lora", seed=seed).config
    at = study.folder / "runs" / file_name(f"{seed}-{sequence}") if plain else folder / "run"
    with file_lock(at):  # plain runs are also averaged, perhaps by another worker
        run = finetune(
            study.start(seed),
            tasks,
            at,
            config,
            vectors=vectors,
            swap_tasks=swap_tasks,
            device=study.device,
            dtype=study.model.dtype,
            progress=study.progress,
        )
    if recipe.share == 1:
        return run
    shutil.rmtree(folder / "average", ignore_errors=True)
    return interpolate_weights(run, folder / "average", share=recipe.share)


def _vector(study: Guided, recipe: Recipe, task: Task) -> FunctionVector:
    seed, model = recipe.config.seed, study.taught(recipe.config.seed)
    own: FunctionVector = vector(study, task, seed, n_heads=recipe.n_heads)
    if recipe.depth is not None:
        own = own.at(layer=round(recipe.depth * (model.n_layers - 1)))
    if recipe.control == "other heads":
        return other_heads(own, seed=seed)
    return random_like(own, seed=seed, heads=True) if recipe.control == "random vectors" else own
