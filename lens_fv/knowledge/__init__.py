"""Teach a model new facts, and test whether it draws inferences from them."""

from lens_fv.knowledge.anchors import entity_swapped_anchors
from lens_fv.knowledge.delta import WeightDelta
from lens_fv.knowledge.distill import distill, finetune_on_texts
from lens_fv.knowledge.entity import Entity, EntityProbe, definitions, majority, random_definitions, true_sentences
from lens_fv.knowledge.evaluate import evaluate_knowledge, evaluate_update, kl_to_base, score_probes, score_probes_by_branch
from lens_fv.knowledge.examples import DistillationExample, make_example
from lens_fv.knowledge.generation import OPENINGS, generate_transfer_set
from lens_fv.knowledge.mentions import at_mentions, definition_vectors
from lens_fv.knowledge.readers import load_entities
from lens_fv.knowledge.results import KnowledgeResult, KnowledgeResults, gap_closed
from lens_fv.knowledge.scores import KnowledgeScores
from lens_fv.knowledge.settings import DistillConfig
from lens_fv.knowledge.trace import KnowledgeTrace, causal_trace
from lens_fv.knowledge.transfer import TransferSet, load_transfer_set

__all__ = [
    "OPENINGS",
    "DistillConfig",
    "DistillationExample",
    "Entity",
    "EntityProbe",
    "KnowledgeResult",
    "KnowledgeResults",
    "KnowledgeScores",
    "KnowledgeTrace",
    "TransferSet",
    "WeightDelta",
    "at_mentions",
    "causal_trace",
    "definition_vectors",
    "definitions",
    "distill",
    "entity_swapped_anchors",
    "evaluate_knowledge",
    "evaluate_update",
    "finetune_on_texts",
    "gap_closed",
    "generate_transfer_set",
    "kl_to_base",
    "load_entities",
    "load_transfer_set",
    "majority",
    "make_example",
    "random_definitions",
    "score_probes",
    "score_probes_by_branch",
    "true_sentences",
]
