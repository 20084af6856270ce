"""Agreement of measures with human ratings of how typical a pair is of its relation."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import stats
from torch import Tensor

from lens_fv.core.artefact import Artefact
from lens_fv.core.choices import checked
from lens_fv.core.statistics import Estimate, estimate
from lens_fv.core.tables import DataFrame, data_frame
from lens_fv.errors import LensFVError
from lens_fv.evaluation.results import item_table


class TypicalityResult(NamedTuple):
    """One measure, averaged over relations.

    Attributes:
        measure: See `typicality`; "one - other" for a difference.
        spearman: Correlation with human typicality within a relation, averaged over relations, with its bootstrap interval.
    """

    measure: str
    spearman: Estimate


@dataclass(frozen=True, repr=False, eq=False)
class Typicality(Artefact):
    """Scores of every rated pair by every measure.

    Attributes:
        relations, groups: Names and classes of the relations.
        measures: Names of the measures, in the order of the last axis.
        pairs: The words of each pair.
        relation: Index of each pair's relation.
        human: Typicality ratings, comparable within a relation only.
        scores: Scores, higher for more typical pairs.

    Raises:
        LensFVError: no relation, a relation with fewer than three rated pairs or constant ratings, or inconsistent parts.
    """

    relations: tuple[str, ...]
    groups: tuple[str, ...]
    measures: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    relation: Int[Tensor, " pairs"]
    human: Float[Tensor, " pairs"]
    scores: Float[Tensor, "pairs measures"]

    def __post_init__(self) -> None:
        """Check that a correlation can be computed in every relation."""
        n, rated = len(self.relations), self.relation.tolist()
        if not n or not self.measures or len(self.groups) != n or len(self.pairs) != len(rated) or {*rated} != {*range(n)}:
            raise LensFVError(f"typicality: {len(rated)} pairs of {n} relations do not belong together; make it again")
        for i, name in enumerate(self.relations):
            human = self.human[self.relation == i]
            if len(human) < 3 or not 0 < float(human.max() - human.min()) < float("inf"):
                raise LensFVError(f"typicality of {name}: {len(human)} rated pairs that order nothing; it takes three or more")
        if self.scores.shape[1] != len(self.measures) or not self.scores.isfinite().all():
            raise LensFVError(f"typicality: not a finite score by each of {len(self.measures)} measures; make it again")

    def by_relation(self) -> Float[Tensor, "relations measures"]:
        """Spearman correlation (corrected for ties) within each relation; 0 for a constant measure."""
        correlations = torch.zeros(len(self.relations), len(self.measures))
        for i in range(len(self.relations)):
            rated = self.relation == i
            for j, scores in enumerate(self.scores[rated].T.numpy()):
                if np.ptp(scores):
                    result: Any = stats.spearmanr(scores, self.human[rated].numpy())
                    correlations[i, j] = float(result.statistic)
        return correlations

    @property
    def results(self) -> list[TypicalityResult]:
        """Results, one per measure."""
        return [self._result(name, rows) for name, rows in zip(self.measures, self.by_relation().T, strict=True)]

    def difference(self, one: str, other: str) -> TypicalityResult:
        """Compare two measures, paired by relation.

        Raises:
            LensFVError: no such measure.
        """
        for name in (one, other):
            if name not in self.measures:
                raise LensFVError(f"typicality by {name!r}: not measured; there are {', '.join(self.measures)}")
        correlations = self.by_relation()
        differences = correlations[:, self.measures.index(one)] - correlations[:, self.measures.index(other)]
        return self._result(f"{one} - {other}", differences)

    def _result(self, name: str, rows: Tensor) -> TypicalityResult:
        return TypicalityResult(name, estimate(rows.tolist(), seed=self.provenance.seed))

    @checked
    def to_dataframe(self, *, by: Literal["measure", "pair"] = "measure") -> DataFrame:
        """One row per measure, with its correlation over relations, or one per rated pair and measure, with its score."""
        if by == "measure":
            return data_frame(self.results)
        first, second = zip(*self.pairs, strict=True)
        relation = [self.relations[i] for i in self.relation.tolist()]
        items = {"relation": relation, "a": first, "b": second, "human": self.human.tolist()}
        return item_table(items, self.measures, {"score": self.scores}, axis="measure")

    def summary(self) -> dict[str, str]:
        """See `Artefact.summary`."""
        rows = {r.measure: f"Spearman {r.spearman:+.2f}" for r in self.results}
        return super().summary() | {"relations": str(len(self.relations)), "rated pairs": str(len(self.pairs))} | rows
