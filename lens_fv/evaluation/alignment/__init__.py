"""Comparison of vector similarities with human judgements and taxonomies."""

from lens_fv.evaluation.alignment.judgements import load_judgements
from lens_fv.evaluation.alignment.matrix import MIN_ITEMS, SimilarityMatrix, similarity_matrix
from lens_fv.evaluation.alignment.rated_pairs import typicality
from lens_fv.evaluation.alignment.relations import relation_similarities, relation_vectors
from lens_fv.evaluation.alignment.rsa import Agreement, compare_similarities
from lens_fv.evaluation.alignment.semeval import RatedRelation, load_semeval
from lens_fv.evaluation.alignment.taxonomy import TaxonomyStructure, taxonomy_structure
from lens_fv.evaluation.alignment.typicality import Typicality, TypicalityResult

__all__ = [
    "MIN_ITEMS",
    "Agreement",
    "RatedRelation",
    "SimilarityMatrix",
    "TaxonomyStructure",
    "Typicality",
    "TypicalityResult",
    "compare_similarities",
    "load_judgements",
    "load_semeval",
    "relation_similarities",
    "relation_vectors",
    "similarity_matrix",
    "taxonomy_structure",
    "typicality",
]
