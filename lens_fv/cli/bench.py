"""Measure speed, exactness and memory on this machine."""

from typing import Annotated, Any

import lens_fv as fv
from lens_fv.cli.command import Options, OptionsOf, command
from lens_fv.cli.knowledge import Entities
from lens_fv.cli.output import Printout, table
from lens_fv.core.choices import Count
from lens_fv.errors import LensFVError

BENCH = "lens_fv.studies.bench"
Prompted = Annotated[Options, OptionsOf(f"{BENCH}:open_subject")]
Unprompted = Annotated[Options, OptionsOf(f"{BENCH}:open_subject", leave_out=("n_shots", "n_tokens"))]
Taskless = Annotated[Options, OptionsOf(f"{BENCH}:open_subject", leave_out=("task", "n_shots", "n_tokens"))]


@command
def engine(*, subject: Prompted, options: Annotated[Options, OptionsOf(f"{BENCH}:bench_engine")]) -> Printout:
    """Time patching every head of a few-shot prompt: the engine against a plain TransformerLens loop."""
    return _bench("engine", subject, options)


@command
def sweep(*, subject: Prompted, options: Annotated[Options, OptionsOf(f"{BENCH}:bench_sweep")]) -> Printout:
    """Time adding a vector at every layer and several scales: the engine against one forward pass per cell."""
    return _bench("sweep", subject, options)


@command
def compose(
    *,
    task: str | None = "antonym",
    subject: Annotated[Options, OptionsOf(f"{BENCH}:open_subject", leave_out=("n_shots",))],
    options: Annotated[Options, OptionsOf(f"{BENCH}:bench_compose")],
) -> Printout:
    """Time scoring a basis of vectors on one pair: the engine against one forward pass per vector."""
    return _bench("compose", {"task": task, "n_shots": 0} | subject, options)


@command
def memory(*, subject: Unprompted, options: Annotated[Options, OptionsOf(f"{BENCH}:bench_memory")]) -> Printout:
    """Measure memory and time of patching every head as prompts grow, relative to one plain forward pass."""
    return _bench("memory", {"n_shots": 0} | subject, options)


@command
def tune(*, subject: Unprompted, options: Annotated[Options, OptionsOf(f"{BENCH}:bench_tune")]) -> Printout:
    """Time tuning of one or more vectors: steps through the layers above against full forward and backward passes."""
    return _bench("tune", {"n_shots": 0} | subject, options)


@command
def guided(*, subject: Taskless, options: Annotated[Options, OptionsOf(f"{BENCH}:bench_guided")]) -> Printout:
    """Measure time and peak memory of a training step: plain low-rank updates against regularized ones."""
    return _bench("guided", {"n_shots": 0} | subject, options)


@command
def teach(
    *,
    entities: Entities = "invented",
    n_entities: Annotated[Count, "Number of entities to teach, each alone, from the first on."] = 3,
    subject: Taskless,
    options: Annotated[Options, OptionsOf(f"{BENCH}:bench_teach")],
) -> Printout:
    """Measure time and peak memory of teaching an entity: distillation against plain fine-tuning."""
    if str(subject.get("model")).startswith("random:"):
        raise LensFVError(f"teach {subject['model']}: random weights write no sentences; name a model that was trained")
    return _bench("teach", {"n_shots": 0} | subject, options, fv.load_entities(entities)[:n_entities])


def _bench(name: str, subject: Options, options: Options, *inputs: Any) -> Printout:
    """Run a benchmark, and print its table or its values."""
    from lens_fv.studies import bench

    opened = bench.open_subject(**subject)
    measures = getattr(bench, f"bench_{name}")(opened, *inputs, **options, progress=True).measures
    rows = next((value for value in measures.values() if isinstance(value, list)), None)
    return Printout(measures, table(rows or [{"measure": name, "value": value} for name, value in measures.items()]))
