"""Measure speed, exactness and memory on this machine."""

from collections.abc import Sequence
from typing import Annotated, Any

import lens_fv as fv
from lens_fv.cli.command import Options, OptionsOf, chosen, command
from lens_fv.cli.inputs import MODEL, TASK
from lens_fv.cli.knowledge import Entities
from lens_fv.cli.output import Printout, table
from lens_fv.core.choices import Count, Natural
from lens_fv.errors import LensFVError

HELP = "Measure speed, exactness and memory on this machine."
BENCH = "lens_fv.studies.bench"
Model = Annotated[str, "Model, or random:SHAPE for random weights (smollm2-135m, llama-3.2-1b, llama-3-8b)."]
TaskName = Annotated[str, "Task: a built-in relation (`lens-fv tasks` lists them) or a file of pairs; not for random weights."]
Prompt = Annotated[Options, OptionsOf(f"{BENCH}:open_subject", only=("n_shots", "n_tokens", "device", "dtype", "seed"))]
Unprompted = Annotated[Options, OptionsOf(f"{BENCH}:open_subject", only=("device", "dtype", "seed"))]


@command
def engine(
    *,
    model: Model = MODEL,
    task: TaskName = TASK,
    prompt: Prompt,
    options: Annotated[Options, OptionsOf(f"{BENCH}:bench_engine")],
) -> Printout:
    """Time patching every head of a few-shot prompt: the engine against a plain TransformerLens loop."""
    return _bench("engine", ("sample", "repeats"), options, _subject(model, task, prompt))


@command
def sweep(
    *,
    model: Model = MODEL,
    task: TaskName = TASK,
    prompt: Prompt,
    options: Annotated[Options, OptionsOf(f"{BENCH}:bench_sweep", leave_out=("scales",))],
) -> Printout:
    """Time adding a vector at every layer and five scales: the engine against one forward pass per cell."""
    return _bench("sweep", ("sample", "repeats"), options, _subject(model, task, prompt))


@command
def compose(
    *,
    model: Model = MODEL,
    task: TaskName = "antonym",
    prompt: Annotated[Options, OptionsOf(f"{BENCH}:open_subject", only=("n_tokens", "device", "dtype", "seed"))],
    options: Annotated[Options, OptionsOf(f"{BENCH}:bench_compose")],
) -> Printout:
    """Time scoring a basis of vectors on one pair: the engine against one forward pass per vector."""
    return _bench("compose", ("sample", "repeats"), options, _subject(model, task, prompt | {"n_shots": 0}))


@command
def memory(
    *,
    model: Model = MODEL,
    task: TaskName = TASK,
    n_shots: Sequence[Natural] = (5, 10, 20, 40, 60),
    prompt: Unprompted,
    options: Annotated[Options, OptionsOf(f"{BENCH}:bench_memory")],
) -> Printout:
    """Measure memory and time of patching every head as prompts grow, relative to one plain forward pass.

    Args:
        n_shots: Number of demonstrations; repeatable.
    """
    from lens_fv.studies.bench.subject import few_shot_tokens

    subject = _subject(model, task, prompt | {"n_shots": n_shots[0]})
    if (the_task := _task(model, task)) is None:
        prompts = [tuple(i % subject.model.d_vocab for i in range(10 * (n + 1))) for n in n_shots]
    else:
        seed = chosen(prompt, f"{BENCH}:open_subject", "seed")
        prompts = [few_shot_tokens(subject.model, the_task, n, seed) for n in n_shots]
    return _bench("memory", ("repeats",) * len(prompts), options, subject, prompts)


@command
def tune(
    *,
    model: Model = MODEL,
    task: TaskName = TASK,
    prompt: Unprompted,
    options: Annotated[Options, OptionsOf(f"{BENCH}:bench_tune")],
) -> Printout:
    """Time tuning of one or more vectors: steps through the layers above against full forward and backward passes."""
    subject = _subject(model, task, prompt | {"n_shots": 0})
    return _bench("tune", ("steps", "steps"), options, subject, _task(model, task))


@command
def guided(
    *, model: Model = MODEL, prompt: Unprompted, options: Annotated[Options, OptionsOf(f"{BENCH}:bench_guided")]
) -> Printout:
    """Measure time and peak memory of a training step: plain low-rank updates against regularized ones."""
    return _bench("guided", ("repeats",), options, _subject(model, TASK, prompt | {"n_shots": 0}))


@command
def teach(
    *,
    model: Model = MODEL,
    entities: Entities = "invented",
    n_entities: Count = 3,
    prompt: Unprompted,
    options: Annotated[Options, OptionsOf(f"{BENCH}:bench_teach")],
) -> Printout:
    """Measure time and peak memory of teaching an entity: distillation against plain fine-tuning.

    Args:
        n_entities: Number of entities to teach, each alone, from the first on.
    """
    if model.startswith("random:"):
        raise LensFVError(f"teach {model}: random weights write no sentences; name a model that was trained")
    subject = _subject(model, TASK, prompt | {"n_shots": 0})
    taught = fv.load_entities(entities)[:n_entities]
    return _bench("teach", len(taught), options, subject, taught)


def _task(model: str, name: str) -> "fv.Task | None":
    """The task; None with random weights."""
    return None if model.startswith("random:") else fv.load_task(name)


def _subject(model: str, task: str, prompt: Options) -> Any:
    from lens_fv.studies.bench import open_subject

    return open_subject(model, _task(model, task), **prompt)


def _bench(name: str, steps: int | Sequence[str], options: Options, *inputs: Any) -> Printout:
    """Run a benchmark, with a bar of as many steps as these of its options add up to, and print its table or its values."""
    from lens_fv.core.progress import progress_bar
    from lens_fv.studies import bench

    total = steps if isinstance(steps, int) else sum(chosen(options, f"{BENCH}:bench_{name}", step) for step in steps)
    with progress_bar("bench", total, show=True) as tick:
        measures = getattr(bench, f"bench_{name}")(*inputs, **options, tick=tick).to_json()
    rows = next((value for value in measures.values() if isinstance(value, list)), None)
    return Printout(measures, table(rows or [{"measure": name, "value": value} for name, value in measures.items()]))


COMMANDS = (engine, sweep, compose, memory, tune, guided, teach)
