"""Composite vectors: libraries of relation vectors, weights for mixing them, and fitted maps."""

from lens_fv.composition.basis import Basis
from lens_fv.composition.build import build_library, merge_libraries
from lens_fv.composition.compose import CompositeVector, compose, softmax_map
from lens_fv.composition.confidence import Confidence, composite_features, fit_confidence, roc_auc
from lens_fv.composition.fit import fit_map, fit_maps
from lens_fv.composition.index import Entry
from lens_fv.composition.library import VectorLibrary
from lens_fv.composition.recipes import ExtractRecipe, TuneRecipe
from lens_fv.composition.weights import WeightMap, relation_scores

__all__ = [
    "Basis",
    "CompositeVector",
    "Confidence",
    "Entry",
    "ExtractRecipe",
    "TuneRecipe",
    "VectorLibrary",
    "WeightMap",
    "build_library",
    "compose",
    "composite_features",
    "fit_confidence",
    "fit_map",
    "fit_maps",
    "merge_libraries",
    "relation_scores",
    "roc_auc",
    "softmax_map",
]
