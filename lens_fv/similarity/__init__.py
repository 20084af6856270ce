"""Do vectors find alike what people find alike?"""

from lens_fv.similarity.judgements import read_judgements
from lens_fv.similarity.matrix import FEWEST, SimilarityMatrix, similarity_matrix
from lens_fv.similarity.relations import relation_similarities, relation_vectors
from lens_fv.similarity.rsa import Agreement, TaxonomyStructure, compare_similarities, taxonomy_structure
from lens_fv.similarity.semeval import RatedRelation, read_semeval
from lens_fv.similarity.typicality import Typicality, TypicalityResult, typicality

__all__ = [
    "FEWEST",
    "Agreement",
    "RatedRelation",
    "SimilarityMatrix",
    "TaxonomyStructure",
    "Typicality",
    "TypicalityResult",
    "compare_similarities",
    "read_judgements",
    "read_semeval",
    "relation_similarities",
    "relation_vectors",
    "similarity_matrix",
    "taxonomy_structure",
    "typicality",
]
