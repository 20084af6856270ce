"""Fine-tuning runs on task sequences, with checkpoints and methods against forgetting."""

from lens_fv.finetuning.checkpoints import (
    at_checkpoint,
    export_checkpoint,
    interpolate_weights,
    switch_to_checkpoint,
)
from lens_fv.finetuning.examples import instruction_swapped_prompts
from lens_fv.finetuning.finetune import finetune
from lens_fv.finetuning.run import Checkpoint, FinetuneRun
from lens_fv.finetuning.settings import FinetuneConfig

__all__ = [
    "Checkpoint",
    "FinetuneConfig",
    "FinetuneRun",
    "at_checkpoint",
    "export_checkpoint",
    "finetune",
    "instruction_swapped_prompts",
    "interpolate_weights",
    "switch_to_checkpoint",
]
