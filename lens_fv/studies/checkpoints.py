"""Measure the checkpoints of a fine-tuning run with the vectors that the model had before it."""

from collections.abc import Sequence
from pathlib import Path

from lens_fv.core.choices import Count, Natural, Seed, checked
from lens_fv.core.files import file_name
from lens_fv.dynamics import TaskProbe, Trajectory, make_task_probe, track_checkpoints
from lens_fv.finetuning import FinetuneRun
from lens_fv.heads import MediationConfig, make_instruction_prompts, rank_prompts
from lens_fv.heads.instructed import Uninformative
from lens_fv.model.loading import load_model
from lens_fv.tasks import Task
from lens_fv.vectors import extract, sweep_injection

SCALES = (1.0, 2.0, 4.0)
"""Scales at which instruction vectors are tried on validation pairs."""


@checked
def measure_run(
    run: FinetuneRun,
    folder: str | Path,
    *,
    others: Sequence[Task] = (),
    counterpart: Uninformative = "equiprobable",
    n_heads: Count = 10,
    n_clean: Count = 40,
    n_trials: Count = 12,
    n_shots: Natural = 0,
    n_context: Natural = 5,
    max_items: Count = 40,
    seed: Seed = 0,
    device: str | None = None,
    dtype: str | None = None,
    progress: bool = False,
) -> Trajectory:
    """Extract each task's instruction vector from the initial model, and measure all checkpoints with it.

    Args:
        run: Fine-tuning run.
        folder: Folder for rankings, vectors and measurements; what it already holds is not repeated.
        others: Tasks to measure in addition to the trained ones.
        counterpart: See `rank_instruction_heads`.
        n_heads: Number of strongest heads summed into a vector.
        n_clean: See `rank_heads`.
        n_trials: See `rank_heads`.
        n_shots: Number of demonstrations after the instruction.
        n_context: Number of demonstrations in the in-context prompts.
        max_items: Maximum number of test pairs per task.
        seed: Seed of prompts, probes and control vectors.
        device: See `load_model`.
        dtype: Precision of the weights; default: that of training.
        progress: Show progress bars.

    Raises:
        LensFVError: `load_model`, `rank_instruction_heads`, `extract` or `track_checkpoints` raises.
    """
    folder, shared = Path(folder), {"n_shots": n_shots, "seed": seed, "template": run.template}
    tasks = [*run.load_tasks(), *(task for task in others if task.name not in run.tasks)]
    model = load_model(run.source, device=device, dtype=dtype or run.about["dtype"])
    ranking_options = MediationConfig(seed=seed, folder=folder / "rankings", progress=progress)
    probes: list[TaskProbe] = []
    for task in tasks:
        prompts = make_instruction_prompts(model, task, counterpart=counterpart, n_clean=n_clean, n_trials=n_trials, **shared)
        ranking = rank_prompts(model, task, prompts, ranking_options)
        vector = extract(model, task, ranking, n_heads=n_heads, template=run.template)
        sweep = sweep_injection(model, task, vector, scales=SCALES, max_items=max_items, template=run.template)
        vector = sweep.best_vector(vector)
        vector.save(folder / "vectors" / f"{file_name(task.name)}.safetensors")
        options = {"n_context": n_context, "max_items": max_items, **shared}
        probes.append(make_task_probe(model, task, vector, patching_prompts=prompts, **options))
    return track_checkpoints(model, run, probes, folder=folder / "measurements", seed=seed, progress=progress)
