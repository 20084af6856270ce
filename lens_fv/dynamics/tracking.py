"""Run the same measurements at every checkpoint of a fine-tuning run."""

from collections.abc import Sequence
from pathlib import Path

from lens_fv.core.choices import Seed, checked
from lens_fv.core.files import file_name
from lens_fv.core.progress import progress_bar
from lens_fv.dynamics.measurement import CheckpointMeasurement, measure_checkpoint
from lens_fv.dynamics.probe import TaskProbe
from lens_fv.dynamics.trajectory import Trajectory
from lens_fv.errors import LensFVError
from lens_fv.finetuning.checkpoints import switch_to_checkpoint
from lens_fv.finetuning.run import Checkpoint, FinetuneRun
from lens_fv.model.lens_model import LensModel


@checked
def track_checkpoints(
    model: LensModel,
    run: FinetuneRun,
    probes: Sequence[TaskProbe],
    *,
    checkpoints: Sequence[Checkpoint] | None = None,
    folder: str | Path | None = None,
    seed: Seed = 0,
    progress: bool = False,
) -> Trajectory:
    """Measure the initial model and every checkpoint of a run with the same probes.

    In-context accuracy and head rankings (for probes with a contrast) are measured only for the initial model and at the end of
    each task, because they take longer than everything else together.

    Args:
        model: Model that the run started from. It is switched in place and restored at the end.
        run: Fine-tuning run.
        probes: See `make_task_probe`.
        checkpoints: Checkpoints to measure; default: all of the run's.
        folder: Folder for the measurements; those it already holds are not repeated.
        seed: Seed of the random control vectors.
        progress: Whether to show a progress bar.

    Raises:
        LensFVError: see `switch_to_checkpoint` and `measure_checkpoint`; or the folder holds measurements with other probes.

    Example:
        >>> model = lens_fv.load_model(model_folder)
        >>> task = lens_fv.load_task('antonym')
        >>> ranking = lens_fv.rank_instruction_heads(model, task, n_shots=0, n_clean=2, n_trials=2)
        >>> vector = lens_fv.extract(model, task, ranking, n_heads=2, layer=1)
        >>> probe = lens_fv.make_task_probe(model, task, vector, n_context=2, max_items=4)
        >>> config = lens_fv.FinetuneConfig(n_examples=4, batch_size=4, n_checkpoints=1, rank=2)
        >>> run = lens_fv.finetune(model_folder, [task], folder / 'run', config)
        >>> trajectory = lens_fv.track_checkpoints(model, run, [probe])
        >>> trajectory.accuracy.shape  # checkpoints and tasks
        torch.Size([2, 1])
    """
    states: list[Checkpoint | None] = [None, *(run.checkpoints if checkpoints is None else checkpoints)]
    measurements: list[CheckpointMeasurement] = []
    try:
        with progress_bar("following the run", len(states) * len(probes), show=progress) as tick:
            for checkpoint in states:
                name, step = ("0", 0) if checkpoint is None else (checkpoint.name, checkpoint.total)
                file = None if folder is None else Path(folder) / f"{file_name(name.replace('/', '-'))}.safetensors"
                if file is not None and file.is_file():
                    measurements.append(_load(file, probes, seed))
                    for _ in probes:
                        tick()
                    continue
                switch_to_checkpoint(model, run, checkpoint)
                stage_end = checkpoint is None or checkpoint.last
                measurements.append(
                    measure_checkpoint(model, probes, name=name, step=step, all_measures=stage_end, seed=seed, tick=tick)
                )
                if file is not None:
                    measurements[-1].save(file)
    finally:
        switch_to_checkpoint(model, run, None)
    return Trajectory.of(measurements)


def _load(file: Path, probes: Sequence[TaskProbe], seed: int) -> CheckpointMeasurement:
    measurement, expected = CheckpointMeasurement.load(file), [probe.fingerprint for probe in probes]
    if (list(measurement.provenance.options["probes"]), measurement.provenance.seed) != (expected, seed):
        raise LensFVError(f"resume in {file.parent}: {file.name} was measured with other probes; choose another folder")
    return measurement
