"""What does fine-tuning do to it?"""

from lens_fv.training.finetune import finetune
from lens_fv.training.run import Checkpoint, FinetuneRun
from lens_fv.training.settings import FinetuneSettings
from lens_fv.training.switch import switch

__all__ = ["Checkpoint", "FinetuneRun", "FinetuneSettings", "finetune", "switch"]
