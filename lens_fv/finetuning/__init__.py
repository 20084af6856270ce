"""Fine-tuning runs: one task after another, their checkpoints, and what keeps earlier abilities."""

from lens_fv.finetuning.average import average
from lens_fv.finetuning.examples import crossed_prompts
from lens_fv.finetuning.finetune import finetune
from lens_fv.finetuning.run import Checkpoint, FinetuneRun
from lens_fv.finetuning.settings import FinetuneSettings
from lens_fv.finetuning.switch import switch
from lens_fv.finetuning.weights import export_checkpoint

__all__ = [
    "Checkpoint",
    "FinetuneRun",
    "FinetuneSettings",
    "average",
    "crossed_prompts",
    "export_checkpoint",
    "finetune",
    "switch",
]
