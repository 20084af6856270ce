"""Ranks of words in decoded vectors, summarised over relations."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int
from scipy import stats
from torch import Tensor

from lens_fv.core.artefact import Artefact
from lens_fv.core.choices import checked
from lens_fv.core.statistics import Estimate, estimate
from lens_fv.core.tables import DataFrame, data_frame
from lens_fv.errors import LensFVError
from lens_fv.evaluation.results import item_table

Targets = Literal["words", "answers"]
Measure = Literal["best_rank", "mean_rank", "median_rank", "best_reciprocal", "mean_reciprocal", "top10", "hit10"]
TOP = 10


class DecodingResult(NamedTuple):
    """One measure in one condition, averaged over relations.

    Attributes:
        condition: Name of the condition, such as "extracted".
        of: "words" (that name the relation) or test "answers".
        measure: See `DecodingEvaluation.values`.
        value: Mean over relations, with its bootstrap interval.
    """

    condition: str
    of: Targets
    measure: Measure
    value: Estimate


class DecodingDifference(NamedTuple):
    """Paired difference between two conditions over relations.

    Attributes:
        before, after: Names of the conditions.
        of, measure: See `DecodingResult`.
        value: Mean of after minus before, with its bootstrap interval over relations.
        p_value: Two-sided, of the signed-rank test (Wilcoxon 1945); 1 if no relation differs.
    """

    before: str
    after: str
    of: Targets
    measure: Measure
    value: Estimate
    p_value: float


@dataclass(frozen=True, repr=False, eq=False)
class DecodingEvaluation(Artefact):
    """Ranks of relation words and answers, for every relation in every condition.

    Decoding is no proxy for steering: vectors that steer well may decode into nothing readable (arXiv 2604.02608).

    Attributes:
        relations: Names of the relations.
        conditions: Names of the conditions, such as "extracted" and "tuned", in the order of the last axis.
        targets: Ranked words, grouped by relation.
        relation: Index of each word's relation.
        answer: True for a test answer, False for a word that names the relation.
        ranks: Rank of the word's first token in the whole vocabulary, from 1 (most likely).
        vocabulary: Number of tokens ranked.
        centred, through_layers: See `evaluate_decoding`.

    Raises:
        LensFVError: a word without a relation, or without a valid rank in every condition.
    """

    relations: tuple[str, ...]
    conditions: tuple[str, ...]
    targets: tuple[str, ...]
    relation: Int[Tensor, " targets"]
    answer: Bool[Tensor, " targets"]
    ranks: Int[Tensor, "targets conditions"]
    vocabulary: int
    centred: bool
    through_layers: bool = False

    def __post_init__(self) -> None:
        """Check that every word has a relation and valid ranks."""
        shape = (len(self.targets), len(self.conditions))
        in_relation = (self.relation >= 0) & (self.relation < len(self.relations))
        ranked = (self.ranks >= 1) & (self.ranks <= self.vocabulary)
        if tuple(self.ranks.shape) != shape or not bool(in_relation.all()) or not bool(ranked.all()):
            raise LensFVError(f"decoding study: {shape[0]} words do not have relations and ranks from 1; make it again")

    @checked
    def values(self, measure: Measure, *, of: Targets = "words") -> Float[Tensor, "relations conditions"]:
        """Compute a measure for every relation; NaN for relations without such words.

        Args:
            measure: Summary of the ranks of a relation's words: "best_rank", "mean_rank" or "median_rank"; "best_reciprocal" or
                "mean_reciprocal" rank; "top10", the share of words among the ten most likely tokens; "hit10", whether any is.
            of: "words" or "answers".

        Raises:
            LensFVError: no such measure.
        """
        summarise = {
            "best_rank": lambda ranks: ranks.amin(0),
            "mean_rank": lambda ranks: ranks.mean(0),
            "median_rank": lambda ranks: ranks.quantile(0.5, 0),
            "best_reciprocal": lambda ranks: 1 / ranks.amin(0),
            "mean_reciprocal": lambda ranks: (1 / ranks).mean(0),
            "top10": lambda ranks: (ranks <= TOP).double().mean(0),
            "hit10": lambda ranks: (ranks.amin(0) <= TOP).double(),
        }
        values = torch.full((len(self.relations), len(self.conditions)), torch.nan, dtype=torch.float64)
        for i in range(len(self.relations)):
            ranks = self.ranks[(self.relation == i) & (self.answer == (of == "answers"))]
            if len(ranks):
                values[i] = summarise[measure](ranks.double())
        return values

    @checked
    def mean(self, condition: str, measure: Measure, *, of: Targets = "words") -> DecodingResult:
        """Average one measure in one condition over the relations with such words.

        Raises:
            LensFVError: no such condition or measure, or no relation with such words.
        """
        values = self._of_conditions([condition], measure, of)[:, 0]
        return DecodingResult(condition, of, measure, estimate(values.tolist(), seed=self.provenance.seed))

    @property
    def results(self) -> list[DecodingResult]:
        """All measures in all conditions, for relation words (if any) and answers."""
        return [self.mean(c, m, of=of) for of in self._targets for m in get_args(Measure) for c in self.conditions]

    @property
    def _targets(self) -> list[Targets]:
        return [of for of in get_args(Targets) if bool((self.answer == (of == "answers")).any())]

    @checked
    def difference(self, before: str, after: str, measure: Measure, *, of: Targets = "words") -> DecodingDifference:
        """Compare two conditions, paired by relation.

        Raises:
            LensFVError: no such condition or measure, or no relation with such words.
        """
        values = self._of_conditions([before, after], measure, of)
        gain = values[:, 1] - values[:, 0]
        test: Any = stats.wilcoxon(gain.numpy()) if bool(gain.any()) else None
        p_value = 1.0 if test is None else float(test.pvalue)
        return DecodingDifference(before, after, of, measure, estimate(gain.tolist(), seed=self.provenance.seed), p_value)

    def _of_conditions(self, conditions: Sequence[str], measure: Measure, of: Targets) -> Float[Tensor, "relations conditions"]:
        for condition in conditions:
            if condition not in self.conditions:
                raise LensFVError(f"decoding of {condition!r} vectors: the study has none; it has {', '.join(self.conditions)}")
        values = self.values(measure, of=of)[:, [self.conditions.index(c) for c in conditions]]
        values = values[~values[:, 0].isnan()]
        if not len(values):
            raise LensFVError(
                f"decoding of {', '.join(conditions)} vectors: no relation has {of}; give its task relation_words"
            )
        return values

    @checked
    def to_dataframe(self, *, by: Literal["measure", "word"] = "measure") -> DataFrame:
        """One row per measure and condition, with intervals over relations, or one per word and condition, with its rank."""
        if by == "measure":
            return data_frame(self.results)
        items = {
            "relation": [self.relations[i] for i in self.relation.tolist()],
            "word": self.targets,
            "of": ["answers" if answer else "words" for answer in self.answer.tolist()],
        }
        return item_table(items, self.conditions, {"rank": self.ranks})

    def summary(self) -> dict[str, str]:
        """See `Artefact.summary`."""
        results = (self.mean(c, "best_reciprocal", of=of) for of in self._targets for c in self.conditions)
        rows = {f"{r.condition}, {r.of}": f"reciprocal best rank {r.value:.3f}" for r in results}
        ranked = (
            f"{len(self.targets)} in {self.vocabulary:,} tokens"
            + ", centred" * self.centred
            + ", through the model" * self.through_layers
        )
        return super().summary() | {"relations": str(len(self.relations)), "words and answers": ranked} | rows
