"""Representations of relations: their vectors, the weights of their composites, and differences between single words."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.composition import CompositeVector, VectorLibrary, WeightMap, compose
from lens_fv.core.choices import checked
from lens_fv.core.progress import progress_bar
from lens_fv.errors import LensFVError
from lens_fv.evaluation.alignment.matrix import SimilarityMatrix, similarity_matrix
from lens_fv.model.lens_model import LensModel
from lens_fv.model.measuring import measured
from lens_fv.tasks import TODD, Pair, PromptTemplate
from lens_fv.vectors import FunctionVector
from lens_fv.vectors.batches import BATCH


@checked
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
        model: The model.
        libraries: Libraries by kind, such as {"tuned": ..., "extracted": ...}.
        relations: Defining pairs of each relation, by name.
        weight_map: Map fitted for the first library; default: softmax(3 x score).
        template: Prompt template.
        progress: Draw a progress bar.

    Raises:
        LensFVError: no libraries or relations, a kind named "composite", or a library that `compose` or the names refuse.

    Example:
        >>> pairs = {name: lens_fv.load_task(name).pairs[:2] for name in ('antonym', 'synonym')}
        >>> vectors = lens_fv.evaluation.alignment.relation_vectors(model, {'tuned': library}, pairs)
        >>> list(vectors)
        ['tuned', 'composite']
    """
    if not libraries or not relations or "composite" in libraries:
        raise LensFVError(f"vectors of {len(relations)} relations from {list(libraries) or 'no libraries'}: name some of both")
    basis, composites = next(iter(libraries.values())), dict[str, CompositeVector]()
    with progress_bar("composing relations", len(relations), show=progress) as tick:
        for name, pairs in relations.items():
            others, fitted = without_relation(basis, weight_map, name)
            composites[name] = compose(model, others, pairs, weight_map=fitted, template=template)
            tick()
    best = {name: composite.names[int(composite.scores.argmax())] for name, composite in composites.items()}
    vectors: dict[str, dict[str, FunctionVector]] = {
        kind: {name: library[name if name in library else best[name]] for name in relations}
        for kind, library in libraries.items()
    }
    vectors["composite"] = {**composites}
    return vectors


@checked
def relation_similarities(
    model: LensModel, vectors: Mapping[str, Mapping[str, FunctionVector]], relations: Mapping[str, Sequence[Pair]]
) -> dict[str, SimilarityMatrix]:
    """Compute similarities of relations by each kind of vector, by the "weights" of composites, and by "embedding".

    "embedding" is the static baseline: cosines between the relations' mean embedding differences (output minus input).

    Args:
        model: The model.
        vectors: See `relation_vectors`.
        relations: Defining pairs of each relation, by name.

    Example:
        >>> pairs = {name: lens_fv.load_task(name).pairs[:2] for name in ('antonym', 'synonym', 'hypernym')}
        >>> vectors = lens_fv.evaluation.alignment.relation_vectors(model, {'tuned': library}, pairs)
        >>> list(lens_fv.evaluation.alignment.relation_similarities(model, vectors, pairs))
        ['tuned', 'composite', 'weights', 'embedding']
    """
    similarities = {kind: similarity_matrix(rows) for kind, rows in vectors.items()}
    composites = {name: v for name, v in vectors.get("composite", {}).items() if isinstance(v, CompositeVector)}
    if composites:
        # A composite lacks a weight for its own relation, which counts as zero.
        weights = {name: dict(zip(c.names, c.weights.tolist(), strict=True)) for name, c in composites.items()}
        names = dict.fromkeys(chain(*weights.values()))
        rows = {name: torch.tensor([own.get(other, 0.0) for other in names]) for name, own in weights.items()}
        similarities["weights"] = similarity_matrix(rows)
    static = {name: embedding_differences(model, pairs).mean(0) for name, pairs in relations.items()}
    return similarities | {"embedding": similarity_matrix(static)}


def without_relation(basis: VectorLibrary, weight_map: WeightMap | None, name: str) -> tuple[VectorLibrary, WeightMap | None]:
    """Remove a relation from a library and from the map fitted for it."""
    if name not in basis:
        return basis, weight_map
    return basis.without(name), None if weight_map is None else weight_map.without(name)


@torch.no_grad()
@measured
def embedding_differences(model: LensModel, pairs: Sequence[Pair]) -> Float[Tensor, "pairs d_model"]:
    """Compute embedding differences, (primary) output minus input, with each word averaged over its tokens."""
    embeddings = {word: model.tl.W_E[_tokens(model, word)].float().mean(0).cpu() for word in _words(pairs)}
    return torch.stack([embeddings[pair.output] - embeddings[pair.input] for pair in pairs])


@torch.no_grad()
def state_differences(model: LensModel, pairs: Sequence[Pair], layers: Sequence[int]) -> Float[Tensor, "layers pairs d_model"]:
    """Compute residual-stream differences after layers, (primary) output minus input, each word alone at its last token."""
    tokens = {word: _tokens(model, word) for word in _words(pairs)}
    bos = [model.tokenizer.bos_token_id] if model.prepend_bos else []
    states: dict[str, Tensor] = {}
    for length in sorted({len(ids) for ids in tokens.values()}):
        words = [word for word, ids in tokens.items() if len(ids) == length]
        for start in range(0, len(words), BATCH):
            batch = words[start : start + BATCH]
            by_layer: dict[int, Tensor] = {}
            hooks = [(f"blocks.{layer}.hook_resid_post", partial(_keep_last, by_layer, layer)) for layer in set(layers)]
            model.run_body(torch.tensor([bos + tokens[word] for word in batch]), hooks)
            states |= dict(zip(batch, torch.stack([by_layer[layer] for layer in layers], 1), strict=True))
    return torch.stack([states[pair.output] - states[pair.input] for pair in pairs], 1)


def _keep_last(by_layer: dict[int, Tensor], layer: int, x: Tensor, hook: Any) -> None:  # noqa: ARG001
    by_layer[layer] = x[:, -1].float().cpu()


def _words(pairs: Sequence[Pair]) -> list[str]:
    return list(dict.fromkeys(word for pair in pairs for word in (pair.input, pair.output)))


def _tokens(model: LensModel, word: str) -> list[int]:
    return model.encode(f" {word}", bos=False)
