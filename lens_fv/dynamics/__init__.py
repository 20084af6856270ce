"""What does fine-tuning do to a task? The same questions at every checkpoint."""

from lens_fv.dynamics.follow import follow
from lens_fv.dynamics.moment import ADDED, Moment, measure_moment
from lens_fv.dynamics.probe import Probe, make_probe
from lens_fv.dynamics.trajectory import Trajectory
from lens_fv.dynamics.verdict import Continual, Verdict, continual, verdicts

__all__ = [
    "ADDED",
    "Continual",
    "Moment",
    "Probe",
    "Trajectory",
    "Verdict",
    "continual",
    "follow",
    "make_probe",
    "measure_moment",
    "verdicts",
]
