"""What changes if one part is changed?"""

from lens_fv.patching.answers import AnswerScorer, AnswerScores, score_answers
from lens_fv.patching.edit import Branch, Edit
from lens_fv.patching.means import HeadMeans, head_means, resid_norms
from lens_fv.patching.ranking import HeadEffect, HeadRanking, indirect_effects, rank_heads
from lens_fv.patching.run import branch_method, check_engine, open_trunk, run_branches
from lens_fv.patching.verify import Finding, verify

__all__ = [
    "AnswerScorer",
    "AnswerScores",
    "Branch",
    "Edit",
    "Finding",
    "HeadEffect",
    "HeadMeans",
    "HeadRanking",
    "branch_method",
    "check_engine",
    "head_means",
    "indirect_effects",
    "open_trunk",
    "rank_heads",
    "resid_norms",
    "run_branches",
    "score_answers",
    "verify",
]
