"""Activation patching: the engine that runs many counterfactual edits of the same prompts."""

from lens_fv.patching.answers import AnswerScores, score_alike, score_answers, score_each_answer
from lens_fv.patching.check import check_engine, choose_backend
from lens_fv.patching.edit import Branch, Edit
from lens_fv.patching.plan import Plan
from lens_fv.patching.readout import AnswerLogits, answer_logprobs, answer_ranks, final_states
from lens_fv.patching.run import OpenPrompts, plan_branches, run_branches
from lens_fv.patching.verify import Finding, Findings, verify

__all__ = [
    "AnswerLogits",
    "AnswerScores",
    "Branch",
    "Edit",
    "Finding",
    "Findings",
    "OpenPrompts",
    "Plan",
    "answer_logprobs",
    "answer_ranks",
    "check_engine",
    "choose_backend",
    "final_states",
    "plan_branches",
    "run_branches",
    "score_alike",
    "score_answers",
    "score_each_answer",
    "verify",
]
