"""Track tasks and their vectors over fine-tuning, with the same measurements at every checkpoint."""

from lens_fv.dynamics.continual_metrics import ContinualMetrics, continual_metrics
from lens_fv.dynamics.measurement import STEERING_VECTORS, CheckpointMeasurement
from lens_fv.dynamics.probe import TaskProbe, make_task_probe
from lens_fv.dynamics.tracking import measure_checkpoint, track_checkpoints
from lens_fv.dynamics.trajectory import Trajectory
from lens_fv.dynamics.verdict import Verdict, Verdicts, verdicts

__all__ = [
    "STEERING_VECTORS",
    "CheckpointMeasurement",
    "ContinualMetrics",
    "TaskProbe",
    "Trajectory",
    "Verdict",
    "Verdicts",
    "continual_metrics",
    "make_task_probe",
    "measure_checkpoint",
    "track_checkpoints",
    "verdicts",
]
