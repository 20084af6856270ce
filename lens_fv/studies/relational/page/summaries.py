"""Summaries other than means over relations: prediction of success, transfer, structure and ranks of words."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from lens_fv.core.statistics import Estimate
from lens_fv.errors import LensFVError
from lens_fv.studies.relational.page.pooling import Record, folds
from lens_fv.studies.relational.solving import confidence


class Foreseen(NamedTuple):
    """How well it can be predicted which composites help.

    Attributes:
        helped: Fraction of analogies where the answer is likelier with the composite than with the one-shot prompt.
        auc: Area under the ROC curve of the confidence learned on the other folds; 0.5 is chance.
        p: p-value of the Mann-Whitney test.
        n: Number of analogies.
    """

    helped: float
    auc: float
    p: float
    n: int


def foreseen(records: Record) -> Foreseen | str:
    """Prediction of success on held-out relations over all folds, or the reason why it cannot be computed."""
    features, helped, fold = list[list[float]](), list[bool](), list[int]()
    for i, (_, found) in enumerate(folds(records, "relations")):
        composite, one_shot = (found["conditions"].index(name) for name in ("composite", "one_shot"))
        features += found["features"]
        helped += [row[composite] > row[one_shot] for row in found["logprob"]]
        fold += [i] * len(found["features"])
    if len(set(fold)) < 2:
        return "a confidence takes two folds at least"
    try:
        auc, p = confidence(torch.tensor(features), torch.tensor(helped), torch.tensor(fold))[1]
    except LensFVError as e:
        return str(e)
    return Foreseen(float(np.mean(helped)), auc, p, len(helped))


class Transfer(NamedTuple):
    """Effect on a relation of its own vector and of the other relations' vectors.

    Attributes:
        own: Value with the relation's own vector.
        others: Mean over all other vectors.
        best: Value with the best other vector.
        related: Value with the best other vector of the same family; None if the family has no other.
        wins: Whether no other vector is better than the relation's own.
    """

    own: float
    others: float
    best: float
    related: float | None
    wins: bool


def transfers(records: Record, relations: Sequence[str], families: Mapping[str, str], measure: str) -> dict[str, Transfer]:
    """Transfer for each evaluated relation; `relations` names the vectors in the order of the records' rows."""
    found: dict[str, Transfer] = {}
    for name, record in records.items():
        row = dict(zip(relations, record[measure], strict=True))
        own = row.pop(name)
        if row:
            related = [value for other, value in row.items() if families[other] == families[name]]
            best = max(row.values())
            found[name] = Transfer(own, float(np.mean(list(row.values()))), best, max(related, default=None), own >= best)
    return found


class Structure(NamedTuple):
    """Whether relations of the same class have similar vectors, over seeds.

    Attributes:
        auc: Mean over seeds of the area under the ROC curve; 0.5 is chance.
        p: Largest p-value of any seed.
        n: Number of relations.
        seeds: Number of seeds.
    """

    auc: float
    p: float
    n: int
    seeds: int


def structures(records: Record) -> dict[tuple[str, str], Structure]:
    """Structure by level of the taxonomy ("group", "family", "SemEval class") and kind of vector."""
    found = defaultdict[tuple[str, str], list[Record]](list)
    for record in records.values():
        levels = {"SemEval class": record["classes"]} if "classes" in record else record
        for level, kinds in levels.items():
            for kind, row in kinds.items():
                found[level, kind].append(row)
    return {
        key: Structure(float(np.mean([r["auc"] for r in rows])), max(r["auc_p"] for r in rows), rows[0]["n_items"], len(rows))
        for key, rows in found.items()
    }


class Decoded(NamedTuple):
    """Ranks of words in the decoding of vectors, over seeds.

    Attributes:
        extracted, tuned: Means over relations and seeds.
        difference: Tuned minus extracted. Each seed has an interval over relations; this one spans them all.
        p: Largest p-value of any seed.
        n: Number of relations.
    """

    extracted: float
    tuned: float
    difference: Estimate
    p: float
    n: int


def decoded(records: Record, how: str, of: str, measure: str) -> Decoded | None:
    """Ranks for one decoding option, set of words and measure; None if not measured."""
    seeds = [found for key, found in records.items() if key.split("/", 1)[1] == how]

    def rows(kind: str) -> list[Record]:
        return [row for found in seeds for row in found[kind] if (row["of"], row["measure"]) == (of, measure)]

    own = rows("differences")
    if not own:
        return None
    by = {c: float(np.mean([r["mean"] for r in rows("results") if r["condition"] == c])) for c in ("extracted", "tuned")}
    mean, low, high = float(np.mean([r["mean"] for r in own])), min(r["low"] for r in own), max(r["high"] for r in own)
    n = own[0]["n"]
    return Decoded(by["extracted"], by["tuned"], Estimate(mean, low, high, n), max(r["p"] for r in own), n)
