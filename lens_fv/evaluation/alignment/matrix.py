"""Similarity matrices of relations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.composition import VectorLibrary
from lens_fv.core.choices import checked
from lens_fv.core.json_files import validated
from lens_fv.core.results import Record
from lens_fv.errors import LensFVError
from lens_fv.vectors import FunctionVector

MIN_ITEMS = 4
"""Minimum number of items for a comparison of similarities; three items have only six permutations."""


@dataclass(frozen=True, repr=False, eq=False)
class SimilarityMatrix(Record):
    """A symmetric matrix of similarities, from vectors or from people.

    Attributes:
        names: Names of the items, usually relations.
        values: Similarities, higher for more similar items; NaN for items that were not compared. The diagonal is ignored.

    Raises:
        LensFVError: a duplicate name, a matrix of the wrong shape, or an asymmetric matrix.
    """

    names: tuple[str, ...]
    values: Float[np.ndarray, "rows columns"]

    def __post_init__(self) -> None:
        n = len(self.names)
        if self.values.shape != (n, n) or len(set(self.names)) < n:
            raise LensFVError(f"similarities of {len(set(self.names))} different names: shape {self.values.shape}, not square")
        if not np.allclose(self.values, self.values.T, equal_nan=True):
            raise LensFVError(f"similarities of {n} items: the matrix is not symmetric")

    def subset(self, names: Sequence[str]) -> "SimilarityMatrix":
        """Select items, in the given order.

        Raises:
            LensFVError: a name that the matrix lacks.
        """
        unknown = [name for name in names if name not in self.names]
        if unknown:
            raise LensFVError(f"similarities of {', '.join(unknown[:5])}: unknown; known are {', '.join(self.names[:10])}, ...")
        indices = [self.names.index(name) for name in names]
        return SimilarityMatrix(tuple(names), self.values[np.ix_(indices, indices)])

    def records(self) -> list[Mapping[str, Any]]:
        """One row per pair of items that were compared."""
        pairs = zip(combinations(self.names, 2), self.upper.tolist(), strict=True)
        return [{"a": a, "b": b, "similarity": value} for (a, b), value in pairs if np.isfinite(value)]

    def summary(self) -> dict[str, str]:
        """The numbers of items and of pairs."""
        return {"items": str(len(self.names)), "pairs": f"{np.isfinite(self.upper).sum()} of {len(self.upper)}"}

    def to_json(self) -> Any:
        """The names, and the rows of the matrix."""
        return {"names": self.names, "values": self.values.tolist()}

    @classmethod
    def from_json(cls, values: Any, context: str) -> "SimilarityMatrix":
        """The matrix that `to_json` wrote."""
        fields = validated(values, dict, context)
        names = validated(fields.get("names"), tuple[str, ...], f"{context}: names")
        rows = validated(fields.get("values"), list[list[float]], f"{context}: values")
        if any(len(row) != len(names) for row in rows):
            raise LensFVError(f"{context}: not a row of {len(names)} values each; make it again")
        return cls(names, np.array(rows))

    @property
    def upper(self) -> Float[np.ndarray, " pairs"]:
        """Values above the diagonal, row by row."""
        return self.values[np.triu_indices(len(self.names), 1)]


@checked
def similarity_matrix(vectors: VectorLibrary | Mapping[str, FunctionVector] | Mapping[str, Tensor]) -> SimilarityMatrix:
    """Compute the matrix of cosine similarities between vectors.

    Args:
        vectors: A library, function vectors by name (including composites), or tensors of equal width by name, such as the
            weights of composites.

    Raises:
        LensFVError: vectors of several models, bases or widths, or with norm zero.

    Example:
        >>> matrix = lens_fv.evaluation.alignment.similarity_matrix(library)
        >>> matrix.names
        ('toy', 'antonym')
    """
    by_name = {name: vectors[name] for name in vectors}
    bases = {(v.provenance.model, v.provenance.weight_processing) for v in by_name.values() if isinstance(v, FunctionVector)}
    if len(bases) > 1:
        raise LensFVError(f"cosines between vectors of {sorted(bases)}: no basis in common; compare those of one model")
    rows = {name: (v.vector if isinstance(v, FunctionVector) else v).double().cpu() for name, v in by_name.items()}
    shapes = {row.shape for row in rows.values()}
    if len(shapes) > 1:
        raise LensFVError(f"cosines between vectors of {len(shapes)} widths: give rows of one")
    zero = [name for name, row in rows.items() if not row.any()]
    if zero or not rows:
        raise LensFVError(f"cosines between {len(rows)} vectors, of length zero: {', '.join(zero) or 'none'}; leave those out")
    normalised = torch.nn.functional.normalize(torch.stack(list(rows.values())), dim=-1)
    return SimilarityMatrix(tuple(rows), (normalised @ normalised.T).numpy())
