"""The page's section on what is claimed about lost tasks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from torch import Tensor

from lens_fv.statistics import Estimate, estimate
from lens_fv.studies.instruction.page.losses import Lost, lost_tasks, pooled
from lens_fv.studies.instruction.page.recorded import Followed, Recorded
from lens_fv.studies.instruction.page.sheets import moments_sheet, verdicts_sheet
from lens_fv.studies.page.markdown import Block, interval, table
from lens_fv.training import Verdict


def claims(run: Recorded) -> list[Block]:
    """What the numbers say about each claim, for and against."""
    lost = lost_tasks(run)
    if not run.followed:
        return []
    if not lost:
        return ["### The claims\n\nNo task was lost: there is nothing to say about them."]
    units = len({(each.run.sequence, each.task) for each in lost})
    change = {m: pooled(lost, lambda e, m=m: _change(e, m)) for m in ("accuracy", "instruction", "knowledge")}
    own = {
        "the vector": pooled(lost, lambda e: float(e.run.path.similarity()[-1, e.at])),
        "its heads, each alone": pooled(lost, lambda e: float(e.run.path.head_similarity()[0][-1, e.at].mean())),
        "random heads": pooled(lost, lambda e: float(e.run.path.head_similarity()[1][-1, e.at].mean())),
    }
    follows = {
        "cosine of the vector": _correlations([(each, each.path.similarity()) for each in run.followed]),
        "cosine of the residual stream to the vector": _correlations(
            [(each, each.path.alignment.nanmean(-1)) for each in run.followed]
        ),
    }
    share = {
        name: pooled(lost, lambda e, name=name: _share(e.verdict, name))
        for name in ("with_vector", "with_random", "with_other")
    }
    overlaps = [(o.jaccard, o.chance) for e in lost for o in [e.run.path.head_overlaps()[-1][e.at]] if o is not None]
    return [
        f"### The claims\n\n{len(lost)} tasks of runs were lost, {units} tasks of sequences; means are over these, of "
        "seeds' means.",
        "**Instruction falls, knowledge stays.** Change from beginning to end, log-probabilities in nats a token:",
        table(["measure", "change"], [[name, interval(e, signed=True)] for name, e in change.items()]),
        "**The vector hardly moves while the task is lost.** Cosine of the end to the beginning:",
        table(["what", "cosine"], [[name, interval(e)] for name, e in own.items()]),
        "Which of the two goes with accuracy, over moments and tasks (Spearman's correlation in each run, mean over runs):",
        table(["what", "correlation with accuracy"], [[name, interval(found)] for name, found in follows.items()]),
        *_overlap(overlaps),
        "**Adding it back recovers.** Share of the lost accuracy that comes back:",
        table(["added", "recovered"], [[_ADDED[name], interval(e)] for name, e in share.items()]),
        verdicts_sheet(run),
        moments_sheet(run),
    ]


_ADDED = {"with_vector": "the task's vector", "with_random": "a random vector", "with_other": "another task's vector"}


def _overlap(overlaps: Sequence[tuple[float, float]]) -> list[Block]:
    if not overlaps:
        return []
    found, chance = (float(np.mean(values)) for values in zip(*overlaps))
    return [
        f"Of the heads that are strongest at the end and those of the beginning, the Jaccard index is {found:.2f} on average; "
        f"of random sets {chance:.2f}."
    ]


def _change(lost: Lost, measure: str) -> float:
    items = lost.run.path.items(measure)[:, lost.at]  # pyright: ignore[reportArgumentType]
    return float((items[-1] - items[0]).nanmean())


def _share(verdict: Verdict, name: str) -> float:
    lost = verdict.before - verdict.after
    return (float(getattr(verdict, name)) - verdict.after) / lost if lost > 0 else float("nan")


def _correlations(runs: Sequence[tuple[Followed, Tensor]]) -> Estimate | None:
    """Of a similarity with accuracy, both as changes since the beginning, over later moments and tasks; mean over runs."""
    found: list[float] = []
    for run, similarity in runs:
        changes = [(x[1:] - x[:1]).flatten().numpy() for x in (similarity, run.path.accuracy)]
        if all(np.ptp(change) > 0 for change in changes):  # what does not change goes with nothing
            rank: Any = spearmanr(changes[0], changes[1])
            found.append(float(rank.statistic))
    return estimate(found) if found else None
