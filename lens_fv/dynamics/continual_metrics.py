"""Continual learning metrics of a task sequence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lens_fv.core.choices import checked
from lens_fv.core.results import Record
from lens_fv.dynamics.trajectory import Trajectory
from lens_fv.errors import LensFVError


@dataclass(frozen=True, repr=False)
class ContinualMetrics(Record):
    """Continual learning metrics of a task sequence, after Jiang et al. (2025).

    Attributes:
        average: Mean accuracy of the trained tasks, each measured right after its training ("AP"), whether or not the task was
            present initially.
        final: Mean accuracy of the trained tasks at the end of the run ("FP").
        forgetting: `average` minus `final` ("Forget").
        general: Mean accuracy after the instruction, at the end, of the tasks that were not trained and were present initially
            (`Trajectory.present`; "GP"); NaN without such tasks.
        in_context: The same as `general`, with demonstrations ("IP").
        matrix: Accuracy of each trained task (columns) after the training of each (rows).
    """

    average: float
    final: float
    forgetting: float
    general: float
    in_context: float
    matrix: list[list[float]]

    def records(self) -> list[Mapping[str, Any]]:
        """One row of the five metrics; the matrix is left out."""
        return [{name: value for name, value in super().records()[0].items() if name != "matrix"}]


@checked
def continual_metrics(trajectory: Trajectory, trained: Sequence[str]) -> ContinualMetrics:
    """Compute continual learning metrics at the end of a run.

    Args:
        trajectory: Trajectory that includes the last checkpoint of every trained task.
        trained: The run's tasks in order: `run.tasks`.

    Raises:
        LensFVError: a trained task was not measured, or the trajectory lacks its last checkpoint. A checkpoint during its
            training, which has no in-context measurement, cannot replace it.

    Example:
        >>> metrics = lens_fv.dynamics.continual_metrics(trajectory, trajectory.tasks)
        >>> metrics.forgetting <= metrics.average
        True
    """
    unknown = [task for task in trained if task not in trajectory.tasks]
    measured = {trajectory.checkpoints[m].rsplit("/", 1)[0]: m for m in trajectory.stage_ends}
    stages = [f"{i}-{task}" for i, task in enumerate(trained)]
    if unknown or not trained or not all(stage in measured for stage in stages):
        ends = ", ".join(trajectory.checkpoints[m] for m in trajectory.stage_ends if m) or "none"
        raise LensFVError(
            f"metrics of a run of {', '.join(trained) or 'no tasks'}: the trajectory has {', '.join(trajectory.tasks)} at "
            f"{', '.join(trajectory.checkpoints)}, of which ends of tasks: {ends}; it needs all of these tasks and their ends"
        )
    columns = [trajectory.tasks.index(task) for task in trained]
    matrix = trajectory.accuracy[[measured[stage] for stage in stages]][:, columns]
    present = trajectory.present()
    others = [t for t, task in enumerate(trajectory.tasks) if task not in trained and present[t]]
    average, final = float(matrix.diagonal().mean()), float(matrix[-1].mean())
    end = measured[stages[-1]]
    general = float(trajectory.accuracy[end, others].mean()) if others else float("nan")
    in_context = float(trajectory.in_context[end, others].nanmean(-1).mean()) if others else float("nan")
    return ContinualMetrics(average, final, average - final, general, in_context, matrix.tolist())
