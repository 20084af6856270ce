"""How alike are relations? One number for every two of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.composition import VectorLibrary
from lens_fv.errors import LensFVError
from lens_fv.vectors import FunctionVector

FEWEST = 4
"""Items below which a comparison of similarities says nothing: three have six orders."""


@dataclass(frozen=True, repr=False, eq=False)
class SimilarityMatrix:
    """A symmetric matrix of similarities, from vectors or from people.

    Attributes:
        names: of the items, usually relations.
        values: the higher, the more alike; not a number where two have not been compared. The diagonal counts nowhere.

    Raises:
        LensFVError: a name twice, a matrix of another shape, or one that is not symmetric.
    """

    names: tuple[str, ...]
    values: Float[np.ndarray, "rows columns"]

    def __post_init__(self) -> None:
        n = len(self.names)
        if self.values.shape != (n, n) or len(set(self.names)) < n:
            raise LensFVError(f"similarities of {len(set(self.names))} different names: shape {self.values.shape}, not square")
        if not np.allclose(self.values, self.values.T, equal_nan=True):
            raise LensFVError(f"similarities of {n} items: the matrix is not symmetric")

    def among(self, names: Sequence[str]) -> "SimilarityMatrix":
        """Some items of it, in the order that is asked for.

        Raises:
            LensFVError: a name that it does not have.
        """
        unknown = [name for name in names if name not in self.names]
        if unknown:
            raise LensFVError(f"similarities of {', '.join(unknown[:5])}: unknown; known are {', '.join(self.names[:10])}, ...")
        at = [self.names.index(name) for name in names]
        return SimilarityMatrix(tuple(names), self.values[np.ix_(at, at)])

    def __repr__(self) -> str:
        return f"SimilarityMatrix({len(self.names)} items, {np.isfinite(self.upper).sum()} of {len(self.upper)} pairs)"

    @property
    def upper(self) -> Float[np.ndarray, " pairs"]:
        """Every two items once, row by row."""
        return self.values[np.triu_indices(len(self.names), 1)]


def similarity_matrix(vectors: VectorLibrary | Mapping[str, FunctionVector] | Mapping[str, Tensor]) -> SimilarityMatrix:
    """Cosines between vectors.

    Args:
        vectors: by name: a library, function vectors (composites among them), or any rows of one width, such as the weights
            of composites.

    Raises:
        LensFVError: vectors of several models or bases, of several widths, or of length zero.
    """
    found = {name: vectors[name] for name in vectors}
    homes = {(v.provenance.model, v.provenance.weight_processing) for v in found.values() if isinstance(v, FunctionVector)}
    if len(homes) > 1:
        raise LensFVError(f"cosines between vectors of {sorted(homes)}: no basis in common; compare those of one model")
    rows = {name: (v.vector if isinstance(v, FunctionVector) else v).double().cpu() for name, v in found.items()}
    if len({row.shape for row in rows.values()}) > 1:
        raise LensFVError(f"cosines between vectors of {len({row.shape for row in rows.values()})} widths: give rows of one")
    zero = [name for name, row in rows.items() if not row.any()]
    if zero or not rows:
        raise LensFVError(f"cosines between {len(rows)} vectors, of length zero: {', '.join(zero) or 'none'}; leave those out")
    stacked = torch.nn.functional.normalize(torch.stack(list(rows.values())), dim=-1)
    return SimilarityMatrix(tuple(rows), (stacked @ stacked.T).numpy())
