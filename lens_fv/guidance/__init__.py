"""Keep what a vector drives while something else is learned."""

from lens_fv.guidance.guide import Guide
from lens_fv.guidance.settings import PRESETS, GuideSettings
from lens_fv.guidance.trainer import guided

__all__ = ["PRESETS", "Guide", "GuideSettings", "guided"]
