"""What changes if one part is changed?"""

from lens_fv.patching.answers import AnswerScorer, AnswerScores, score_answers
from lens_fv.patching.check import branch_way, check_engine
from lens_fv.patching.edit import Branch, Edit
from lens_fv.patching.effects import HeadEffect
from lens_fv.patching.means import HeadMeans, head_means, resid_norms
from lens_fv.patching.ranking import HeadRanking, rank_heads
from lens_fv.patching.readout import AnswerLogits, answer_logprobs, answer_ranks, final_states
from lens_fv.patching.reliability import Reliability
from lens_fv.patching.run import OpenPrompts, plan_branches, run_branches
from lens_fv.patching.universal import UniversalHeads, universal_heads
from lens_fv.patching.verify import Finding, verify

__all__ = [
    "AnswerLogits",
    "AnswerScorer",
    "AnswerScores",
    "Branch",
    "Edit",
    "Finding",
    "HeadEffect",
    "HeadMeans",
    "HeadRanking",
    "OpenPrompts",
    "Reliability",
    "UniversalHeads",
    "answer_logprobs",
    "answer_ranks",
    "branch_way",
    "check_engine",
    "final_states",
    "head_means",
    "plan_branches",
    "rank_heads",
    "resid_norms",
    "run_branches",
    "score_answers",
    "universal_heads",
    "verify",
]
