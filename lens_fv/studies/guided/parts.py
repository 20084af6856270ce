"""Parts of the study: settings are chosen, methods compared, guides ablated and training steps timed."""

import itertools
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lens_fv.core.files import file_lock, file_name
from lens_fv.errors import LensFVError
from lens_fv.finetuning import FinetuneRun, interpolate_weights
from lens_fv.studies.bench import Subject, bench_guided
from lens_fv.studies.bench.training import METHODS as TIMED
from lens_fv.studies.guided.scores import final_rows, make_prompts, metric_rows, score_run
from lens_fv.studies.guided.settings import CHOOSING, CONTROLS, Changes, Guided, Recipe, condition, method_of
from lens_fv.studies.instruction.parts import vector
from lens_fv.studies.rows import Job, Row, part
from lens_fv.studies.tables import View
from lens_fv.tasks import Task, list_tasks, load_task
from lens_fv.vectors import FunctionVector, other_heads, random_like

METRICS = ("average", "final", "forgetting", "general", "in_context")


def choosing(study: Guided) -> Iterator[Job]:
    """Train the sequence `CHOOSING` with every candidate setting of every method and the first seed."""
    s, seed = study.settings, study.settings.seeds[0]
    yield _job(study, "choosing", CHOOSING, seed, "initial")
    for method, candidates in s.methods.items():
        for changes in candidates:
            yield _job(study, "choosing", CHOOSING, seed, condition(method, changes), s.recipe(method, changes, seed=seed))


def best_candidates(rows: View, methods: Mapping[str, Sequence[Changes]]) -> dict[str, str]:
    """For each method that was tried with all its settings, the condition with the best mean of "final" and "general"."""
    table, best = rows.where(part="choosing", measure=METRICS).estimates(), dict[str, str]()
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
    best, settings = best_candidates(View(study.rows.frame()), study.settings.methods), dict[str, Changes]()
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
    for seed, sequence in itertools.product(s.seeds, s.reported):
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


@part(lambda study: [(study.settings.seeds[0], "steps")])
def costs(study: Guided, seed: int, unit: str) -> Iterator[Row]:  # noqa: ARG001
    """Measure time and memory of a training step, for every method with steps that differ from plain low-rank fine-tuning."""
    s = study.settings
    names = [name for name in s.methods if name in TIMED]
    bench = bench_guided(Subject(study.taught(seed)), methods=names, rows=s.training.batch_size, repeats=s.n_timings)
    for step in bench.measures["steps"]:
        yield Row("step", step["method"], "seconds", step["seconds"], s.n_timings)
        yield Row("step", step["method"], "time_ratio", step["time_ratio"], s.n_timings)
        yield Row("step", step["method"], "peak_memory_bytes", step["bytes"])
        yield Row("step", step["method"], "memory_ratio", step["memory_ratio"])


def _job(
    study: Guided, part_name: str, sequence: str, seed: int, name: str, recipe: Recipe | None = None, *, tracked: bool = False
) -> Job:
    """Train a sequence and score the tasks; without a recipe, score the model that it starts from."""

    def rows() -> list[Row]:
        prompts, trained = make_prompts(study, sequence, seed), [task.name for task in study.sequence(sequence)]
        if recipe is None:
            scores = final_rows(study.taught(seed), prompts, name)
        else:
            folder = study.folder / "runs" / file_name(f"{part_name}-{seed}-{sequence}-{name}")
            scores = score_run(study, _train(study, sequence, recipe, folder), prompts, name, seed, tracked=tracked)
            shutil.rmtree(folder, ignore_errors=True)
        return scores + metric_rows(scores, trained, f"{seed}/{sequence}")

    return Job(part_name, f"{sequence}/{name}", rows, seed)


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
    run_folder = study.folder / "runs" / file_name(f"{seed}-{sequence}") if plain else folder / "run"
    with file_lock(run_folder):  # plain runs are also averaged, perhaps by another worker
        run = study.finetune(study.start(seed), tasks, run_folder, config, vectors=vectors, swap_tasks=swap_tasks)
    if recipe.share == 1:
        return run
    shutil.rmtree(folder / "average", ignore_errors=True)
    return interpolate_weights(run, folder / "average", share=recipe.share)


def _vector(study: Guided, recipe: Recipe, task: Task) -> FunctionVector:
    seed, model = recipe.config.seed, study.taught(recipe.config.seed)
    usual: FunctionVector = vector(study, task, seed, n_heads=recipe.n_heads)
    if recipe.depth is not None:
        usual = usual.at(layer=model.layer_at(recipe.depth))
    if recipe.control == "other heads":
        return other_heads(usual, seed=seed)
    return random_like(usual, seed=seed, heads=True) if recipe.control == "random vectors" else usual
