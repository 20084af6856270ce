"""Statistics of records: means over repetitions, then over relations, with intervals over relations."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lens_fv.core.statistics import Estimate, estimate

Record = Mapping[str, Any]
_ONCE = {"logprob_per_answer": "mean_logprob"}
"""Names of measures in older records."""


@dataclass(frozen=True)
class Scores:
    """One measure of every condition on every relation.

    Attributes:
        values: Values by condition, relation and repetition (a seed or an analogy).
    """

    values: Mapping[str, Mapping[str, Mapping[str, float]]]

    @classmethod
    def of(cls, rows: Iterable[tuple[str, str, str, float]]) -> "Scores":
        """Make scores from rows of condition, relation, repetition and value."""
        values: dict[str, dict[str, dict[str, float]]] = {}
        for condition, relation, repetition, value in rows:
            values.setdefault(condition, {}).setdefault(relation, {})[repetition] = value
        return cls(values)

    @property
    def conditions(self) -> list[str]:
        """Conditions, in the order in which they were recorded."""
        return list(self.values)

    @property
    def relations(self) -> list[str]:
        """Relations of all conditions."""
        return list(dict.fromkeys(name for found in self.values.values() for name in found))

    def by_relation(self, condition: str) -> dict[str, float]:
        """Mean over repetitions for each relation."""
        return {name: float(np.mean(list(found.values()))) for name, found in self.values.get(condition, {}).items()}

    def differences(self, one: str, other: str) -> dict[str, float]:
        """Mean difference for each relation, over the repetitions that both conditions share."""
        ones, others, found = self.values.get(one, {}), self.values.get(other, {}), dict[str, float]()
        for name in ones:
            both = [key for key in ones[name] if key in others.get(name, {})]
            if both:
                found[name] = float(np.mean([ones[name][key] - others[name][key] for key in both]))
        return found

    def mean(self, condition: str, among: Collection[str] | None = None) -> Estimate | None:
        """Mean over relations, or over those in `among`; None if none was measured."""
        return _pooled(self.by_relation(condition), among)

    def difference(self, one: str, other: str, among: Collection[str] | None = None) -> Estimate | None:
        """Mean difference of two conditions, paired by relation."""
        return _pooled(self.differences(one, other), among)


def _pooled(values: Mapping[str, float], among: Collection[str] | None) -> Estimate | None:
    some = [value for name, value in values.items() if among is None or name in among]
    return estimate(some) if some else None


def result_scores(records: Record, measure: str) -> Scores:
    """Scores of the parts completion, kinds and carrying; the measure is "top1", "full" or "logprob_per_answer"."""
    return Scores.of(
        (row["condition"], name, seed, measured(row, measure))
        for key, rows in records.items()
        for seed, name in [key.split("/", 1)]
        for row in rows
    )


def measured(row: Record, measure: str) -> Any:
    """A measure of a row, also under its former name."""
    return row[measure] if measure in row else row[_ONCE[measure]]


def tuning_scores(records: Record, what: str, measure: str) -> Scores:
    """Scores ("top1", "gain", ...) for each value of a varied quantity ("pairs", "layer" or "start") as a condition."""
    return Scores.of(
        (value, name, seed, row[measure])
        for key, found in records.items()
        for seed, varied, value in [key.split("/", 2)]
        if varied == what
        for name, row in found.items()
    )


def typicality_scores(records: Record) -> Scores:
    """Spearman's correlation with human typicality within SemEval's relations, by measure."""
    return Scores.of(
        (result["measure"], name, key.split("/")[0], value)
        for key, found in records.items()
        if key.endswith("/semeval")
        for name, row in found["by_relation"].items()
        for result, value in zip(found["results"], row, strict=True)
    )


def analogy_scores(records: Record, part: str, measure: str, *, far: bool | None = None) -> Scores:
    """Scores on analogies, pooled over folds; each analogy is a repetition.

    Args:
        records: Records of the part analogies.
        part: "relations" (held out from the maps), "pairs" (new pairs of the maps' training relations), or "variants/"
            followed by a variant.
        measure: "top1", "full", "logprob", "choice" or "calibrated".
        far: Restrict to analogies with A and C far apart (True) or near each other (False); None: all.
    """
    return Scores.of(
        (condition, name, f"{fold}/{i}", value)
        for fold, found in folds(records, part)
        for i, (name, is_far, row) in enumerate(zip(found["relations"], found["far"], found[measure], strict=True))
        if far is None or is_far == far
        for condition, value in zip(found["conditions"], row, strict=True)
    )


def folds(records: Record, part: str) -> list[tuple[str, Record]]:
    """The recorded folds of a part, in order."""
    return [(fold, value) for key, value in sorted(records.items()) for fold, own in [key.split("/", 1)] if own == part]
