"""Can it be taught facts that spread?"""

from lens_fv.knowledge.anchors import said_of_others
from lens_fv.knowledge.builtin import load_entities
from lens_fv.knowledge.delta import WeightDelta
from lens_fv.knowledge.distill import distill, learn_texts
from lens_fv.knowledge.drift import drift, true_sentences
from lens_fv.knowledge.entity import Entity, EntityProbe
from lens_fv.knowledge.evaluate import KnowledgeResult, evaluate_knowledge, evaluate_update, gap_closed, random_definitions
from lens_fv.knowledge.inside import at_mentions, definition_vectors
from lens_fv.knowledge.lessons import Lesson, make_lesson
from lens_fv.knowledge.measure import ask, ask_each, definitions, majority
from lens_fv.knowledge.readers import read_entities
from lens_fv.knowledge.scores import KnowledgeScores
from lens_fv.knowledge.settings import TeachSettings
from lens_fv.knowledge.trace import KnowledgeTrace, causal_trace
from lens_fv.knowledge.transfer import TransferSet, read_transfer
from lens_fv.knowledge.writing import OPENINGS, write_transfer

__all__ = [
    "OPENINGS",
    "Entity",
    "EntityProbe",
    "KnowledgeResult",
    "KnowledgeScores",
    "KnowledgeTrace",
    "Lesson",
    "TeachSettings",
    "TransferSet",
    "WeightDelta",
    "ask",
    "ask_each",
    "at_mentions",
    "causal_trace",
    "definition_vectors",
    "definitions",
    "distill",
    "drift",
    "evaluate_knowledge",
    "evaluate_update",
    "gap_closed",
    "learn_texts",
    "load_entities",
    "majority",
    "make_lesson",
    "random_definitions",
    "read_entities",
    "read_transfer",
    "said_of_others",
    "true_sentences",
    "write_transfer",
]
