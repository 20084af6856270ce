"""Which attention heads carry a task: head rankings by causal mediation, their statistics, and cheaper approximations."""

from lens_fv.heads.attribution import compare_attributions
from lens_fv.heads.classes import ClassEffect, ClassEffects, class_effects
from lens_fv.heads.comparison import HeadComparison
from lens_fv.heads.competence import Competence, CompetenceConfig, choose_queries, competence
from lens_fv.heads.counterparts import counterpart_text
from lens_fv.heads.instructed import InstructionRankingConfig, make_instruction_prompts, rank_instruction_heads
from lens_fv.heads.means import HeadMeans, head_means, resid_norms, resid_states
from lens_fv.heads.options import MediationConfig, RankingConfig, RunConfig
from lens_fv.heads.planning import RankingPlan, plan_ranking
from lens_fv.heads.protocol import PatchingPrompts, make_ranking_prompts, rank_heads, rank_prompts
from lens_fv.heads.ranking import HeadEffect, HeadRanking
from lens_fv.heads.statistics import Overlap, Reliability, head_overlap
from lens_fv.heads.universal import UniversalHeads, UniversalHeadsConfig, universal_heads

__all__ = [
    "ClassEffect",
    "ClassEffects",
    "Competence",
    "CompetenceConfig",
    "HeadComparison",
    "HeadEffect",
    "HeadMeans",
    "HeadRanking",
    "InstructionRankingConfig",
    "MediationConfig",
    "Overlap",
    "PatchingPrompts",
    "RankingConfig",
    "RankingPlan",
    "Reliability",
    "RunConfig",
    "UniversalHeads",
    "UniversalHeadsConfig",
    "choose_queries",
    "class_effects",
    "compare_attributions",
    "competence",
    "counterpart_text",
    "head_means",
    "head_overlap",
    "make_instruction_prompts",
    "make_ranking_prompts",
    "plan_ranking",
    "rank_heads",
    "rank_instruction_heads",
    "rank_prompts",
    "resid_norms",
    "resid_states",
    "universal_heads",
]
