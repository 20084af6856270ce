"""The commands `lens-fv bench ...`: speed, exactness and memory on this machine."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from cyclopts import Parameter

import lens_fv as fv
from lens_fv.cli.command import Options, OptionsOf, chosen, command
from lens_fv.cli.inputs import MODEL, TASK, TaskName
from lens_fv.cli.knowledge import Entities
from lens_fv.cli.output import Printout, table
from lens_fv.core.choices import Count, Natural
from lens_fv.errors import LensFVError

HELP = "Measure speed, exactness and memory on this machine."
BENCH = "lens_fv.studies.bench"
Model = Annotated[str, Parameter(help="Model, or random:SHAPE for random weights (smollm2-135m, llama-3.2-1b, llama-3-8b).")]
Prompt = Annotated[Options, OptionsOf(f"{BENCH}:open_subject", only=("n_shots", "n_tokens", "device", "dtype", "seed"))]
Plain = Annotated[Options, OptionsOf(f"{BENCH}:open_subject", only=("device", "dtype", "seed"))]


@command
def engine(
    *,
    model: Model = MODEL,
    task: TaskName = TASK,
    prompt: Prompt,
    options: Annotated[Options, OptionsOf(f"{BENCH}:bench_engine")],
) -> Printout:
    """Time patching every head of a few-shot prompt: the engine against a plain TransformerLens loop.

    Writes nothing unless --out is given.
    """
    return _edits("bench_engine", model, task, prompt, options)


@command
def sweep(
    *,
    model: Model = MODEL,
    task: TaskName = TASK,
    prompt: Prompt,
    options: Annotated[Options, OptionsOf(f"{BENCH}:bench_sweep", leave_out=("scales",))],
) -> Printout:
    """Time adding a vector at every layer and five scales: the engine against one forward pass per cell.

    Writes nothing unless --out is given.
    """
    return _edits("bench_sweep", model, task, prompt, options)


@command
def compose(
    *,
    model: Model = MODEL,
    task: TaskName = "antonym",
    prompt: Annotated[Options, OptionsOf(f"{BENCH}:open_subject", only=("n_tokens", "device", "dtype", "seed"))],
    options: Annotated[Options, OptionsOf(f"{BENCH}:bench_compose")],
) -> Printout:
    """Time scoring a basis of vectors on one pair: the engine against one forward pass per vector.

    Writes nothing unless --out is given.
    """
    return _edits("bench_compose", model, task, prompt | {"n_shots": 0}, options)


@command
def memory(
    *,
    model: Model = MODEL,
    task: TaskName = TASK,
    n_shots: Sequence[Natural] | None = None,
    prompt: Plain,
    options: Annotated[Options, OptionsOf(f"{BENCH}:bench_memory")],
) -> Printout:
    """Measure memory and time of patching every head as prompts grow, relative to one plain forward pass.

    Writes nothing unless --out is given.

    Args:
        n_shots: Number of demonstrations; repeatable; default: 5, 10, 20, 40, 60.
    """
    from lens_fv.studies.bench.subject import few_shot_tokens

    counts = n_shots or (5, 10, 20, 40, 60)
    subject, the_task = _opened(model, task, prompt | {"n_shots": counts[0]})
    if the_task is None:
        prompts = [tuple(i % subject.model.d_vocab for i in range(10 * (n + 1))) for n in counts]
    else:
        seed = chosen(prompt, f"{BENCH}:open_subject", "seed")
        prompts = [few_shot_tokens(subject.model, the_task, n, seed) for n in counts]
    n_runs = chosen(options, f"{BENCH}:bench_memory", "repeats")
    payload = _timed("bench_memory", n_runs * len(prompts), subject, prompts, **options)
    return Printout(payload, table(payload["growth"], title="patching every head"))


@command
def tune(
    *,
    model: Model = MODEL,
    task: TaskName = TASK,
    prompt: Plain,
    options: Annotated[Options, OptionsOf(f"{BENCH}:bench_tune")],
) -> Printout:
    """Time tuning of one or more vectors: steps through the layers above against full forward and backward passes.

    Writes nothing unless --out is given.
    """
    steps = chosen(options, f"{BENCH}:bench_tune", "steps")
    return _values(_timed("bench_tune", 2 * steps, *_opened(model, task, prompt | {"n_shots": 0}), **options))


@command
def guided(*, model: Model = MODEL, prompt: Plain, options: Annotated[Options, OptionsOf(f"{BENCH}:bench_guided")]) -> Printout:
    """Measure time and peak memory of a training step: plain low-rank updates against regularized ones.

    Writes nothing unless --out is given.
    """
    subject, _ = _opened(model, TASK, prompt | {"n_shots": 0})
    payload = _timed("bench_guided", chosen(options, f"{BENCH}:bench_guided", "repeats"), subject, **options)
    return Printout(payload, table(payload["steps"], title="one training step"))


@command
def teach(
    *,
    model: Model = MODEL,
    entities: Entities = "invented",
    n_entities: Count = 3,
    prompt: Plain,
    options: Annotated[Options, OptionsOf(f"{BENCH}:bench_teach")],
) -> Printout:
    """Measure time and peak memory of teaching an entity: distillation against plain fine-tuning.

    Writes nothing unless --out is given.

    Args:
        n_entities: Number of entities to teach, each alone, from the first on.
    """
    if model.startswith("random:"):
        raise LensFVError(f"teach {model}: random weights write no sentences; name a model that was trained")
    subject, _ = _opened(model, TASK, prompt | {"n_shots": 0})
    taught = fv.load_entities(entities)[:n_entities]
    payload = _timed("bench_teach", len(taught), subject, taught, **options)
    return Printout(payload, table(payload["ways"], title="teaching one entity"))


def _edits(function: str, model: str, task: str, prompt: Options, options: Options) -> Printout:
    """Run a benchmark of many edits of one prompt."""
    runs = sum(chosen(options, f"{BENCH}:{function}", name) for name in ("sample", "repeats"))
    return _values(_timed(function, runs, _opened(model, task, prompt)[0], **options))


def _opened(model: str, task: str, prompt: Options) -> "tuple[Any, fv.Task | None]":
    """Open the model with a prompt, and the task (None with random weights)."""
    from lens_fv.studies.bench import open_subject

    the_task = None if model.startswith("random:") else fv.load_task(task)
    return open_subject(model, the_task, **prompt), the_task


def _timed(function: str, total: int, *inputs: Any, **options: Any) -> dict[str, Any]:
    from lens_fv.core.progress import progress_bar
    from lens_fv.studies import bench

    with progress_bar("bench", total, show=True) as tick:
        return getattr(bench, function)(*inputs, **options, tick=tick).to_json()


def _values(payload: Mapping[str, Any]) -> Printout:
    return Printout(payload, table([{"measure": name, "value": value} for name, value in payload.items()]))


COMMANDS = (engine, sweep, compose, memory, tune, guided, teach)
