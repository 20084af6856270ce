"""What is no mean over relations: foresight, transfer, structure, ranks of words."""

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
    """Whether it is known beforehand which composites help.

    Attributes:
        helped: share of analogies whose answer the composite makes likelier than the one-shot prompt does.
        auc: of the confidence that was learned on the other folds; 0.5 is chance.
        p: of Mann and Whitney's test.
        n: analogies.
    """

    helped: float
    auc: float
    p: float
    n: int


def foreseen(records: Record) -> Foreseen | str:
    """Of held-out relations, all folds; or in words, why there is no such number."""
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
    """What a relation's own vector does to it, and what the others' do.

    Attributes:
        own: of the relation's own vector.
        others: mean of all others.
        best: of the best other.
        related: of the best other of the relation's family; None where it has none.
        wins: no other vector is better than its own.
    """

    own: float
    others: float
    best: float
    related: float | None
    wins: bool


def transfers(records: Record, relations: Sequence[str], families: Mapping[str, str], measure: str) -> dict[str, Transfer]:
    """Of each relation that was tried; `relations`: the vectors, in the order of the records' rows."""
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
        auc: mean over seeds; 0.5 is chance.
        p: the largest of any seed.
        n: relations.
        seeds: how many.
    """

    auc: float
    p: float
    n: int
    seeds: int


def structures(records: Record) -> dict[tuple[str, str], Structure]:
    """By level of the taxonomy ("group", "family", "SemEval class") and kind of vector."""
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
    """Ranks of words in what vectors decode to, over seeds.

    Attributes:
        extracted, tuned: means over relations and seeds.
        difference: tuned less extracted; the interval reaches over those of all seeds, each over relations.
        p: the largest of any seed.
        n: relations.
    """

    extracted: float
    tuned: float
    difference: Estimate
    p: float
    n: int


def decoded(records: Record, how: str, of: str, measure: str) -> Decoded | None:
    """Read in one way; None: it was not measured."""
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
