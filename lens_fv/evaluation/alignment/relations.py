"""Representations of relations: their vectors, the weights of their composites, and a static baseline."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.composition import CompositeVector, VectorLibrary, WeightMap, compose
from lens_fv.core.progress import progress_bar
from lens_fv.errors import LensFVError
from lens_fv.evaluation.alignment.matrix import SimilarityMatrix, similarity_matrix
from lens_fv.evaluation.alignment.words import embedding_differences
from lens_fv.model.lens_model import LensModel
from lens_fv.tasks import TODD, Pair, PromptTemplate
from lens_fv.vectors import FunctionVector


def relation_vectors(
    model: LensModel,
    libraries: Mapping[str, VectorLibrary],
    relations: Mapping[str, Sequence[Pair]],
    *,
    weight_map: WeightMap | None = None,
    template: PromptTemplate = TODD,
    progress: bool = False,
) -> dict[str, dict[str, FunctionVector]]:
    """Collect vectors of relations by kind: one from each library, and "composite".

    In a library, a relation's vector is the one of its name, or else the one that explains its pairs best (by the first
    library's mean log-probability). The composite uses the first library without the relation's own vector, as if the relation
    were new.

    Args:
        model: the model.
        libraries: libraries by kind, such as {"tuned": ..., "extracted": ...}.
        relations: defining pairs of each relation, by name.
        weight_map: map fitted for the first library; default: softmax(3 x score).
        template: prompt template.
        progress: draw a progress bar.

    Raises:
        LensFVError: no libraries or relations, a kind named "composite", or a library that `compose` or the names refuse.
    """
    if not libraries or not relations or "composite" in libraries:
        raise LensFVError(f"vectors of {len(relations)} relations from {list(libraries) or 'no libraries'}: name some of both")
    basis, composites = next(iter(libraries.values())), dict[str, CompositeVector]()
    with progress_bar("composing relations", len(relations), show=progress) as tick:
        for name, pairs in relations.items():
            others, fitted = without_relation(basis, weight_map, name)
            composites[name] = compose(model, others, pairs, weight_map=fitted, template=template)
            tick()
    best = {name: c.names[int(c.scores.argmax())] for name, c in composites.items()}
    found: dict[str, dict[str, FunctionVector]] = {
        kind: {name: library[name if name in library else best[name]] for name in relations}
        for kind, library in libraries.items()
    }
    found["composite"] = {**composites}
    return found


def relation_similarities(
    model: LensModel, vectors: Mapping[str, Mapping[str, FunctionVector]], relations: Mapping[str, Sequence[Pair]]
) -> dict[str, SimilarityMatrix]:
    """Compute similarities of relations by each kind of vector, by the "weights" of composites, and by "embedding".

    "embedding" is the static baseline: cosines between the relations' mean embedding differences (output minus input).

    Args:
        model: the model.
        vectors: see `relation_vectors`.
        relations: defining pairs of each relation, by name.
    """
    found = {kind: similarity_matrix(rows) for kind, rows in vectors.items()}
    composites = {name: v for name, v in vectors.get("composite", {}).items() if isinstance(v, CompositeVector)}
    if composites:
        names = list(dict.fromkeys(name for c in composites.values() for name in c.names))
        found["weights"] = similarity_matrix({name: _spread(c, names) for name, c in composites.items()})
    static = {name: embedding_differences(model, pairs).mean(0) for name, pairs in relations.items()}
    return found | {"embedding": similarity_matrix(static)}


def without_relation(basis: VectorLibrary, weight_map: WeightMap | None, name: str) -> tuple[VectorLibrary, WeightMap | None]:
    """Remove a relation from a library and from the map fitted for it."""
    if name not in basis:
        return basis, weight_map
    return basis.without(name), None if weight_map is None else weight_map.without(name)


def _spread(composite: CompositeVector, names: Sequence[str]) -> Float[Tensor, " relations"]:
    """Align a composite's weights with the full list of relations; its own relation, which it lacks, gets weight zero."""
    weights = dict(zip(composite.names, composite.weights.tolist(), strict=True))
    return torch.tensor([weights.get(name, 0.0) for name in names])
