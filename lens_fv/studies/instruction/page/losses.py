"""Tasks that lost accuracy in a run, and averages over them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from lens_fv.core.statistics import Estimate, estimate
from lens_fv.dynamics import Verdict
from lens_fv.studies.instruction.page.recorded import Followed, Recorded


class Lost(NamedTuple):
    """A task that lost accuracy in a run.

    Attributes:
        run: tracked run.
        task: task name.
        at: index of the task in the trajectory.
        verdict: judgement on the task at the end of the run.
    """

    run: Followed
    task: str
    at: int
    verdict: Verdict


def lost_tasks(run: Recorded) -> list[Lost]:
    """Collect the lost tasks of all sequences and seeds."""
    return [
        Lost(each, verdict.task, at, verdict)
        for each in run.followed
        for at, verdict in enumerate(each.verdicts)
        if verdict.lost
    ]


def pooled(lost: Sequence[Lost], value: Callable[[Lost], float]) -> Estimate | None:
    """Average a value over each task's seeds first and over the sequences' tasks second, with an interval over tasks."""
    by_unit: dict[tuple[str, str], list[float]] = {}
    for each in lost:
        found = value(each)
        if not np.isnan(found):
            by_unit.setdefault((each.run.sequence, each.task), []).append(found)
    return estimate([float(np.mean(values)) for values in by_unit.values()]) if by_unit else None
