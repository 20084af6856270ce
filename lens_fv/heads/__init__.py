"""Which attention heads carry a task: head rankings by causal mediation, their statistics, and cheaper approximations."""

from lens_fv.heads.attribution import compare_attributions
from lens_fv.heads.classes import ClassEffect, ClassEffects, class_effects
from lens_fv.heads.comparison import HeadComparison
from lens_fv.heads.competence import Competence, choose_queries, competence
from lens_fv.heads.counterparts import counterpart_text
from lens_fv.heads.effects import HeadEffect
from lens_fv.heads.few_shot import rank_heads
from lens_fv.heads.instructed import instruction_contrast, rank_instruction_heads
from lens_fv.heads.means import HeadMeans, head_means, resid_norms, resid_states
from lens_fv.heads.overlap import Overlap, head_overlap
from lens_fv.heads.planning import RankingPlan, plan_ranking
from lens_fv.heads.ranking import HeadRanking, rank_contrast
from lens_fv.heads.reliability import Reliability
from lens_fv.heads.universal import UniversalHeads, universal_heads

__all__ = [
    "ClassEffect",
    "ClassEffects",
    "Competence",
    "HeadComparison",
    "HeadEffect",
    "HeadMeans",
    "HeadRanking",
    "Overlap",
    "RankingPlan",
    "Reliability",
    "UniversalHeads",
    "choose_queries",
    "class_effects",
    "compare_attributions",
    "competence",
    "counterpart_text",
    "head_means",
    "head_overlap",
    "instruction_contrast",
    "plan_ranking",
    "rank_contrast",
    "rank_heads",
    "rank_instruction_heads",
    "resid_norms",
    "resid_states",
    "universal_heads",
]
