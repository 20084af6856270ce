"""Report section on the claims about lost tasks."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from torch import Tensor

from lens_fv.core.statistics import Estimate, estimate
from lens_fv.dynamics.trajectory import Measure
from lens_fv.studies.instruction.page.losses import Lost, lost_tasks, pooled
from lens_fv.studies.instruction.page.recorded import Followed, Recorded
from lens_fv.studies.instruction.page.sheets import moments_sheet, verdicts_sheet
from lens_fv.studies.page.markdown import Block, interval, table, verdict


def claims(run: Recorded) -> list[Block]:
    """Report the evidence for and against each claim."""
    lost = lost_tasks(run)
    if not run.followed:
        return []
    if not lost:
        return ["### The claims\n\nNo task was lost: there is nothing to say about them."]
    units = len({(each.run.sequence, each.task) for each in lost})
    change = {m: pooled(lost, partial(_change, m)) for m in ("accuracy", "instruction", "knowledge")}
    own = {"the vector": _vector, "its heads, each alone": partial(_heads, 0), "random heads": partial(_heads, 1)}
    follows = {
        "cosine of the vector": _correlations([(each, each.path.similarity()) for each in run.followed]),
        "cosine of the residual stream to the vector": _correlations(
            [(each, each.path.alignment.nanmean(-1)) for each in run.followed]
        ),
    }
    share = {name: partial(_share, name) for name in _ADDED}
    overlaps = [(o.jaccard, o.chance) for e in lost for o in [e.run.path.head_overlaps()[-1][e.at]] if o is not None]
    return [
        f"### The claims\n\n{len(lost)} tasks of runs were lost, {units} tasks of sequences; means are over these, of "
        "seeds' means.",
        "**Instruction falls, knowledge stays.** Change from beginning to end, log-probabilities in nats a token:",
        table(["measure", "change"], [[name, interval(e, signed=True)] for name, e in change.items()]),
        _so("Knowledge falls less than instruction", lost, partial(_change, "knowledge"), partial(_change, "instruction")),
        "**The vector hardly moves while the task is lost.** Cosine of the end to the beginning:",
        table(["what", "cosine"], [[name, interval(pooled(lost, of))] for name, of in own.items()]),
        _so("It moves less than random heads", lost, _vector, partial(_heads, 1)),
        "Which of the two goes with accuracy, over moments and tasks (Spearman's correlation in each run, mean over runs):",
        table(["what", "correlation with accuracy"], [[name, interval(found)] for name, found in follows.items()]),
        *_overlap(overlaps),
        "**Adding it back recovers.** Share of the lost accuracy that comes back:",
        table(["added", "recovered"], [[_ADDED[name], interval(pooled(lost, of))] for name, of in share.items()]),
        *(
            _so(f"It brings back more than {_ADDED[name]}", lost, share["with_vector"], share[name])
            for name in ("with_random", "with_other")
        ),
        verdicts_sheet(run),
        moments_sheet(run),
    ]


_ADDED = {"with_vector": "the task's vector", "with_random": "a random vector", "with_other": "another task's vector"}


def _so(claim: str, lost: Sequence[Lost], one: Callable[[Lost], float], other: Callable[[Lost], float]) -> str:
    """Report whether one quantity exceeds another, paired by lost task."""
    found = pooled(lost, lambda each: one(each) - other(each))
    return f"{claim} (difference {interval(found, signed=True)}): {verdict(found)}." if found else f"{claim}: not measured."


def _overlap(overlaps: Sequence[tuple[float, float]]) -> list[Block]:
    if not overlaps:
        return []
    found, chance = (float(np.mean(values)) for values in zip(*overlaps))
    return [
        f"Of the heads that are strongest at the end and those of the beginning, the Jaccard index is {found:.2f} on average; "
        f"of random sets {chance:.2f}."
    ]


def _change(measure: Measure, lost: Lost) -> float:
    items = lost.run.path.items(measure)[:, lost.at]
    return float((items[-1] - items[0]).nanmean())


def _vector(lost: Lost) -> float:
    return float(lost.run.path.similarity()[-1, lost.at])


def _heads(which: int, lost: Lost) -> float:
    """Return the mean similarity of the vector's heads (0), or of random ones (1)."""
    return float(lost.run.path.head_similarity()[which][-1, lost.at].mean())


def _share(name: str, lost: Lost) -> float:
    judged = lost.verdict
    gone = judged.before.mean - judged.after.mean
    return (getattr(judged, name).mean - judged.after.mean) / gone if gone > 0 else float("nan")


def _correlations(runs: Sequence[tuple[Followed, Tensor]]) -> Estimate | None:
    """Correlate a similarity with accuracy, both as changes from the initial model; mean over runs.

    The correlation is over later checkpoints and the tasks that were present initially.
    """
    found: list[float] = []
    for run, similarity in runs:
        there = run.path.present()
        changes = [(x[1:] - x[:1])[:, there].flatten().numpy() for x in (similarity, run.path.accuracy)]
        if len(changes[0]) and all(np.ptp(change) > 0 for change in changes):  # constants have no correlation
            rank: Any = spearmanr(changes[0], changes[1])
            found.append(float(rank.statistic))
    return estimate(found) if found else None
