"""What does fine-tuning do to it?"""

from lens_fv.training.average import average
from lens_fv.training.examples import crossed_prompts
from lens_fv.training.finetune import finetune
from lens_fv.training.follow import follow
from lens_fv.training.moment import ADDED, Moment, measure_moment
from lens_fv.training.probe import Probe, make_probe
from lens_fv.training.run import Checkpoint, FinetuneRun
from lens_fv.training.settings import FinetuneSettings
from lens_fv.training.switch import switch
from lens_fv.training.trajectory import Trajectory
from lens_fv.training.verdict import Continual, Verdict, continual, verdicts
from lens_fv.training.weights import export_checkpoint

__all__ = [
    "ADDED",
    "Checkpoint",
    "Continual",
    "FinetuneRun",
    "FinetuneSettings",
    "Moment",
    "Probe",
    "Trajectory",
    "Verdict",
    "average",
    "continual",
    "crossed_prompts",
    "export_checkpoint",
    "finetune",
    "follow",
    "make_probe",
    "measure_moment",
    "switch",
    "verdicts",
]
