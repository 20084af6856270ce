"""Tasks that lost accuracy in a run, and means over them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from lens_fv.core.statistics import Estimate, estimate
from lens_fv.dynamics import Verdict
from lens_fv.studies.instruction.page.recorded import Followed, Recorded


class Lost(NamedTuple):
    """One task of one run that lost accuracy there.

    Attributes:
        run: the run.
        task: its name.
        at: its index.
        verdict: what became of it.
    """

    run: Followed
    task: str
    at: int
    verdict: Verdict


def lost_tasks(run: Recorded) -> list[Lost]:
    """Of all sequences and seeds."""
    return [
        Lost(each, verdict.task, at, verdict)
        for each in run.followed
        for at, verdict in enumerate(each.verdicts)
        if verdict.lost
    ]


def pooled(lost: Sequence[Lost], value: Callable[[Lost], float]) -> Estimate | None:
    """Mean over tasks of sequences, of each the mean over its seeds, with an interval over these."""
    by_unit: dict[tuple[str, str], list[float]] = {}
    for each in lost:
        found = value(each)
        if not np.isnan(found):
            by_unit.setdefault((each.run.sequence, each.task), []).append(found)
    return estimate([float(np.mean(values)) for values in by_unit.values()]) if by_unit else None
