"""The basis of composites: vectors of one model at one layer."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.composition.index import Entry
from lens_fv.errors import LensFVError
from lens_fv.model.lens_model import LensModel
from lens_fv.vectors import FunctionVector


class Basis(NamedTuple):
    """Vectors that can be mixed: of one model, at one layer.

    Attributes:
        names: Names of the relations.
        vectors: Vectors, with their scales applied.
        layer: Layer after which they are added.
        resid_norm: Typical norm of the residual stream at this layer (mean over the vectors' values).
    """

    names: tuple[str, ...]
    vectors: Float[Tensor, "relations d_model"]
    layer: int
    resid_norm: float


def make_basis(model: LensModel, entries: Sequence[Entry], load: Callable[[str], FunctionVector]) -> Basis:
    """The vectors of some entries as the rows of a basis; see `VectorLibrary.basis`."""
    if not entries:
        raise LensFVError(f"compose on {model.name}: the library is empty; build it, or filter less of it away")
    for name, values in (
        ("models", {e.model for e in entries}),
        ("weights", {e.fingerprint for e in entries} - {None}),
        ("layers", {e.layer for e in entries}),
    ):
        if len(values) > 1:
            listed = ", ".join(sorted(map(str, values)))
            raise LensFVError(f"compose vectors of {len(values)} {name} ({listed}): filter the library to one")
    vectors = [load(entry.name) for entry in entries]
    for entry, vector in zip(entries, vectors, strict=True):
        vector.provenance.check(model)
        if vector.site != "resid_post":
            raise LensFVError(f"compose with the vector of {entry.name}: it is injected at its {vector.site}, not at a layer")
    rows = torch.stack([vector.vector * vector.scale for vector in vectors]).to(model.device)
    resid_norm = sum(vector.resid_norm for vector in vectors) / len(vectors)
    return Basis(tuple(entry.name for entry in entries), rows, vectors[0].layer, resid_norm)
