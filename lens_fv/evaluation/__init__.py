"""Does it work, and is that more than chance?"""

from lens_fv.evaluation.evaluate import Evaluation, Result, evaluate
from lens_fv.statistics import bootstrap_interval, wilson_interval

__all__ = ["Evaluation", "Result", "bootstrap_interval", "evaluate", "wilson_interval"]
