"""Evaluation of vectors with controls: accuracy, decoding, analogies, free text, human judgements."""

from lens_fv.core.artefact import load_artefact
from lens_fv.core.statistics import Estimate, estimate, proportion
from lens_fv.evaluation.analogies import evaluate_analogies
from lens_fv.evaluation.compare import BASELINES, compare_baselines
from lens_fv.evaluation.decoding import evaluate_decoding
from lens_fv.evaluation.evaluate import evaluate
from lens_fv.evaluation.lists import ListComposition, compose_lists
from lens_fv.evaluation.ranks import DecodingDifference, DecodingEvaluation, DecodingResult
from lens_fv.evaluation.results import ConditionScores, Evaluation, Result, TextEvaluation, TextResult
from lens_fv.evaluation.solutions import AnalogyEvaluation, AnalogyResult
from lens_fv.evaluation.texts import evaluate_texts, rouge_l

__all__ = [
    "BASELINES",
    "AnalogyEvaluation",
    "AnalogyResult",
    "ConditionScores",
    "DecodingDifference",
    "DecodingEvaluation",
    "DecodingResult",
    "Estimate",
    "Evaluation",
    "ListComposition",
    "Result",
    "TextEvaluation",
    "TextResult",
    "compare_baselines",
    "compose_lists",
    "estimate",
    "evaluate",
    "evaluate_analogies",
    "evaluate_decoding",
    "evaluate_texts",
    "load_artefact",
    "proportion",
    "rouge_l",
]
