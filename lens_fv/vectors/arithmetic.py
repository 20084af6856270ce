"""Sums, differences and mixtures of vectors; the result records its terms."""

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

import torch

from lens_fv.core.artefact import Provenance
from lens_fv.core.choices import Finite, Whole, checked
from lens_fv.errors import LensFVError
from lens_fv.vectors.function_vector import FunctionVector

METHOD = "combined"
MAX_NAMED = 4
"""Maximum number of terms that the name of a combination spells out."""


@checked
def combine(
    vectors: Sequence[FunctionVector], weights: Sequence[Finite | int], *, layer: Whole | None = None
) -> FunctionVector:
    """Weighted sum of vectors, with their scales applied (task composition in Todd et al. 2024).

    `a + b`, `a - b`, `-a`, `2 * a` and `a / 2` are shorthands. The provenance's `options["terms"]` lists every vector with its
    weight, task, task_hash, method, seed and layer; nested combinations are expanded into their original vectors.

    Args:
        vectors: Vectors of one model in one basis.
        weights: One weight per vector.
        layer: Layer at which the sum is added; required if the vectors' layers differ. `resid_norm` of the sum is the mean
            over the vectors at that layer, or over all if none is.

    Raises:
        LensFVError: there are no vectors, the number of weights differs, a weight is not finite, the vectors differ in model,
            basis or (without `layer`) layer, or one is injected at its heads.

    Example:
        >>> half = lens_fv.vectors.combine([vector, lens_fv.vectors.random_like(vector)], [0.5, 0.5])
        >>> half.layer == vector.layer
        True
    """
    if not vectors or len(vectors) != len(weights):
        raise LensFVError(f"combine {len(vectors)} vectors with weights {list(weights)}: give one weight a vector")
    first = vectors[0]
    for vector in vectors:
        _require_same(first.provenance, vector.provenance)
        if vector.site != "resid_post":
            raise LensFVError(
                f"combine the vector of {vector.provenance.task}: it is injected at its heads, where it takes the place of "
                "their outputs, which do not add up; take its sum with .at(site='resid_post')"
            )
    layers = sorted({vector.layer for vector in vectors})
    if layer is None and len(layers) > 1:
        raise LensFVError(f"combine vectors of layers {', '.join(map(str, layers))}: say where the sum goes with layer=")
    target = layers[0] if layer is None else layer
    norms = [v.resid_norm for v in vectors if v.layer == target] or [v.resid_norm for v in vectors]
    rows = torch.stack([vector.vector.to(first.vector) * vector.scale for vector in vectors])
    terms = [term for vector, weight in zip(vectors, weights, strict=True) for term in _terms(vector, weight)]
    return FunctionVector(
        provenance=_provenance([v.provenance for v in vectors], terms),
        vector=torch.tensor(weights, dtype=rows.dtype, device=rows.device) @ rows,
        head_outputs=first.head_outputs[:0],
        layer=target,
        resid_norm=sum(norms) / len(norms),
    )


@checked
def interpolate(a: FunctionVector, b: FunctionVector, t: Finite | Whole) -> FunctionVector:
    """The vector on the line from `a` (t = 0) to `b` (t = 1): (1 - t) a + t b.

    Raises:
        LensFVError: see `combine`.

    Example:
        >>> other = lens_fv.vectors.random_like(vector)
        >>> lens_fv.vectors.interpolate(vector, other, 0.25).layer == vector.layer
        True
    """
    return combine([a, b], [1 - t, t])


def _require_same(a: Provenance, b: Provenance) -> None:
    for field in ("model", "revision", "weight_processing", "shape"):
        one, other = getattr(a, field), getattr(b, field)
        if one != other and None not in (one, other):
            raise LensFVError(
                f"combine vectors of {a.task} and {b.task}: their {field.replace('_', ' ')}s are {one} and {other}; "
                "take those of one"
            )


def _terms(vector: FunctionVector, weight: float | int) -> list[dict[str, Any]]:
    p, factor = vector.provenance, weight * vector.scale
    if p.method == METHOD:
        return [term | {"weight": factor * term["weight"]} for term in p.options["terms"]]
    term = {"task": p.task, "task_hash": p.task_hash, "method": p.method, "seed": p.seed, "layer": vector.layer}
    return [{"weight": factor, **term}]


def _provenance(parts: Sequence[Provenance], terms: Sequence[dict[str, Any]]) -> Provenance:
    signed = [("- " if t["weight"] < 0 else "+ ") + f"{abs(t['weight']):.3g} {t['task']}".removeprefix("1 ") for t in terms]
    name = " ".join(signed).removeprefix("+ ") if len(terms) <= MAX_NAMED else f"sum of {len(terms)} vectors"
    return replace(
        parts[0],
        task=name,
        task_hash=_joint_hash([p.task_hash for p in parts]),
        prompts_hash=_joint_hash([p.prompts_hash for p in parts]),
        method=METHOD,
        options={"terms": tuple(terms)},
    )


def _joint_hash(hashes: Sequence[str]) -> str:
    """The hash itself if all are equal."""
    return hashes[0] if len(set(hashes)) == 1 else sha256(" ".join(hashes).encode()).hexdigest()[:16]
