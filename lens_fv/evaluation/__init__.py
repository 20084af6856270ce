"""Does it work, and is that more than chance?"""

# From here, because every kind of artefact is known once this room is loaded.
from lens_fv.artefact import load_artefact
from lens_fv.evaluation.analogies import AnalogyEvaluation, AnalogyResult, evaluate_analogies
from lens_fv.evaluation.compare import KINDS, compare_kinds
from lens_fv.evaluation.evaluate import Evaluation, Result, evaluate
from lens_fv.statistics import bootstrap_interval, wilson_interval

__all__ = [
    "KINDS",
    "AnalogyEvaluation",
    "AnalogyResult",
    "Evaluation",
    "Result",
    "bootstrap_interval",
    "compare_kinds",
    "evaluate",
    "evaluate_analogies",
    "load_artefact",
    "wilson_interval",
]
