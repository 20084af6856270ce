"""Regularizers that preserve what a vector drives while a model learns something else."""

from lens_fv.finetuning.regularizers.guide import Guide
from lens_fv.finetuning.regularizers.settings import PRESETS, GuideConfig
from lens_fv.finetuning.regularizers.trainer import guided

__all__ = ["PRESETS", "Guide", "GuideConfig", "guided"]
