"""What updates teach, and what else they change, as estimates from the rows."""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from lens_fv.core.statistics import Estimate, estimate
from lens_fv.knowledge.results import share_of_gap
from lens_fv.knowledge.scores import perplexity_of
from lens_fv.studies.knowledge.settings import ENTITIES, EXTERNAL, SIZES
from lens_fv.studies.knowledge.updates import ACCURACY, KL, LOCALITY, LOGPROB
from lens_fv.studies.tables import View


def effect(rows: View, own: View, part: str) -> dict[str, Any]:
    """What an update, of which `own` are the rows, teaches about the entities of a part, and what else it changes.

    `gap`, `gap_loss`: shares of the gaps in accuracy and in loss that it closes. `accuracy`, `perplexity`: differences from
    the base on unrelated probes, in percentage points and in percent. `kl`: KL divergence from the base on unrelated
    sentences, in nats per token.
    """
    accuracy, logprob = (_change(rows, own, measure) for measure in (ACCURACY, LOGPROB))
    return {
        **gaps(rows, own, part),
        "accuracy": mapped(accuracy, lambda change: 100 * change),
        "perplexity": mapped(logprob, lambda change: 100 * float(np.expm1(-change))),
        "kl": kl_divergence(own),
    }


def gaps(rows: View, own: View, part: str) -> dict[str, Estimate | None]:
    """The shares of the gaps in accuracy and in loss on the entities of a part that the rows `own` are about."""
    shares: dict[str, Estimate | None] = {}
    for name, measure in (("gap", ACCURACY), ("gap_loss", LOGPROB)):
        base, in_context = (without_update(rows, part, known, measure) for known in ("base", "definition_in_context"))
        updated = own.where(measure=measure).means()
        units = [unit for unit in updated if unit in base and unit in in_context]
        values = [[means[unit] for unit in units] for means in (base, updated, in_context)]
        shares[name] = share_of_gap(values[0], values[1], values[2])
    return shares


def without_update(rows: View, part: str, condition: str, measure: str) -> dict[str, float]:
    """Each entity's value without an update; the largest updates are filled with further external entities."""
    parts = [EXTERNAL, SIZES] if part == EXTERNAL else [ENTITIES]
    return rows.where(part=parts, measure=measure, condition=condition).means()


def _change(rows: View, own: View, measure: str) -> Estimate | None:
    """The difference from the base on unrelated probes, paired by entity."""
    before = rows.where(measure=LOCALITY + measure, condition="base").means()
    after = own.where(measure=LOCALITY + measure).means()
    differences = [value - before[unit] for unit, value in after.items() if unit in before]
    return estimate(differences) if differences else None


def kl_divergence(rows: View) -> Estimate | None:
    """KL divergence over seeds; with one seed over its updates; of one update over sentences, as it was recorded."""
    rows = rows.where(measure=LOCALITY + KL)
    means = rows.where(kind="")
    for over in ("seed", "job"):
        if len(means.unique(over)) > 1:
            return means.mean(over)
    ends = rows.means("kind")
    return Estimate(ends[""], ends["ci_low"], ends["ci_high"], int(means.frame["n"].iloc[0])) if ends else None


def mapped(value: Estimate | None, function: Callable[[float], float]) -> Estimate | None:
    """A monotone function of an estimate."""
    if value is None:
        return None
    mean, *ends = map(function, value[:3])
    low, high = sorted(ends)
    return Estimate(mean, low, high, value.n)


def perplexity(logprob: Estimate | None) -> Estimate | None:
    """Perplexity of a mean log-probability per token."""
    loss = mapped(logprob, operator.neg)
    return loss and perplexity_of(loss)
