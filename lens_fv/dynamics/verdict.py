"""Judge whether a lost ability has been overwritten or merely suppressed."""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import binomtest
from torch import Tensor

from lens_fv.core.choices import Level, NonNegative, Whole, checked
from lens_fv.core.results import Records
from lens_fv.core.statistics import Estimate, estimate, proportion
from lens_fv.dynamics.measurement import STEERING_VECTORS
from lens_fv.dynamics.trajectory import Trajectory
from lens_fv.errors import LensFVError
from lens_fv.heads.statistics import holm

Judgement = Literal["absent", "kept", "suppressed", "overwritten", "undecided"]
MARGIN = 0.5
"""Nats per token by which knowledge may fall and still count as kept."""


class Verdict(NamedTuple):
    """Judgement on one task, with the evidence.

    Attributes:
        task: Task name.
        judgement: "absent" if the task was not shown to be present initially (`Trajectory.present`), so that it is not judged
            and its p-values are NaN; "kept" if no loss of accuracy was shown. Among the tasks that lost accuracy, "suppressed"
            if the knowledge is kept and the initial vector restores accuracy, "overwritten" if the knowledge fell and the
            vector restores nothing, else "undecided".
        before, after: Accuracy after the instruction, initially and at the judged checkpoint, with Wilson's interval like all
            accuracies here.
        p_lost: p-value of the loss: whether more items turned wrong than right (one-sided exact McNemar test).
        knowledge: Mean change of the answers' log-probability in the cloze over items, in nats per token.
        with_vector, with_random, with_other: Accuracy at the judged checkpoint with the initial vector added, and with a random
            vector or another task's vector of the same norm.
        p_restored: p-value of the recovery: the larger one of two McNemar tests, against no vector and against the random
            vector. Both p-values are corrected for the number of judged tasks (Holm).
        majority: Accuracy of always giving the most frequent answer; NaN if unknown.
    """

    task: str
    judgement: Judgement
    before: Estimate
    after: Estimate
    p_lost: float
    knowledge: Estimate
    with_vector: Estimate
    with_random: Estimate
    with_other: Estimate
    p_restored: float
    majority: float

    @property
    def lost(self) -> bool:
        """Whether the task was present initially and lost accuracy."""
        return self.judgement not in ("absent", "kept")

    @property
    def recovery(self) -> float:
        """Share of the lost accuracy that the vector restores; NaN if none was lost or the task was absent."""
        lost = self.before.mean - self.after.mean if self.judgement != "absent" else 0.0
        return (self.with_vector.mean - self.after.mean) / lost if lost > 0 else float("nan")


class Verdicts(Records[Verdict]):
    """The judgements on the tasks of a trajectory."""

    row = Verdict

    def summary(self) -> dict[str, str]:
        """One line per task: the judgement, and accuracy before and after."""
        return {v.task: f"{v.judgement}: accuracy {v.before.mean:.2f} to {v.after.mean:.2f}" for v in self}


@checked
def verdicts(trajectory: Trajectory, *, checkpoint: Whole = -1, level: Level = 0.05, margin: NonNegative = MARGIN) -> Verdicts:
    """Judge every task of a trajectory by statistical tests.

    Tasks that were not present initially are "absent", since they have nothing to keep or lose. Knowledge counts as kept if the
    whole bootstrap interval of its mean change lies above minus the margin, and as fallen if it lies below.

    Args:
        trajectory: Trajectory that starts with the initial model.
        checkpoint: Index of the checkpoint to judge; default: the last one.
        level: Significance level of the tests; intervals have confidence 1 - level.
        margin: Nats per token by which knowledge may fall and still count as kept.

    Raises:
        LensFVError: no such checkpoint, or the initial model itself.

    Example:
        >>> [verdict.judgement for verdict in lens_fv.verdicts(trajectory)]
        ['kept', 'kept', 'kept']
    """
    n = len(trajectory.checkpoints)
    if not -n < checkpoint < n or checkpoint == 0:
        raise LensFVError(f"judge checkpoint {checkpoint} of {n}: give one from 1 to {n - 1}, or from the end")
    items = [_items(trajectory, t, checkpoint) for t in range(len(trajectory.tasks))]
    present = np.array(trajectory.present(level=1 - level))
    p_lost, p_restored = np.full((2, len(items)), np.nan)
    p_lost[present] = holm(np.array([_mcnemar(x.before, x.after) for x in items])[present])
    restored = [max(_mcnemar(x.with_vector, x.after), _mcnemar(x.with_vector, x.with_random)) for x in items]
    p_restored[present] = holm(np.array(restored)[present])
    majority = [float("nan")] * len(items) if trajectory.majority is None else trajectory.majority.tolist()
    rows: list[Verdict] = []
    for t, (task, correct) in enumerate(zip(trajectory.tasks, items, strict=True)):
        knowledge = estimate(correct.knowledge_change.tolist(), level=1 - level, seed=trajectory.provenance.seed)
        judgement: Judgement = "absent"
        if present[t]:
            judgement = _judge(bool(p_lost[t] < level), bool(p_restored[t] < level), knowledge, margin)
        rows.append(
            Verdict(
                task=task,
                judgement=judgement,
                before=_accuracy(correct.before),
                after=_accuracy(correct.after),
                p_lost=float(p_lost[t]),
                knowledge=knowledge,
                with_vector=_accuracy(correct.with_vector),
                with_random=_accuracy(correct.with_random),
                with_other=_accuracy(correct.with_other),
                p_restored=float(p_restored[t]),
                majority=majority[t],
            )
        )
    return Verdicts(rows)


class _Items(NamedTuple):
    """Which items of a task are right, and how the log-probability of their answers in the cloze changed."""

    before: Bool[Tensor, " items"]
    after: Bool[Tensor, " items"]
    with_vector: Bool[Tensor, " items"]
    with_random: Bool[Tensor, " items"]
    with_other: Bool[Tensor, " items"]
    knowledge_change: Float[Tensor, " items"]


def _items(trajectory: Trajectory, t: int, checkpoint: int) -> _Items:
    tested = ~trajectory.correct[0, t].isnan()
    before, after = (trajectory.correct[m, t][tested] > 0 for m in (0, checkpoint))
    steered = trajectory.steered[checkpoint, t][:, tested] > 0
    with_vector, with_random, with_other = (steered[STEERING_VECTORS.index(name)] for name in ("vector", "random", "other"))
    change = (trajectory.knowledge[checkpoint, t] - trajectory.knowledge[0, t])[tested]
    return _Items(before, after, with_vector, with_random, with_other, change)


def _accuracy(correct: Bool[Tensor, " items"]) -> Estimate:
    return proportion(int(correct.sum()), len(correct))


def _judge(lost: bool, restored: bool, knowledge: Estimate, margin: float) -> Judgement:
    if not lost:
        return "kept"
    if restored and knowledge.ci_low > -margin:
        return "suppressed"
    return "overwritten" if not restored and knowledge.ci_high < -margin else "undecided"


def _mcnemar(one: Bool[Tensor, " items"], other: Bool[Tensor, " items"]) -> float:
    """One-sided exact McNemar test of whether `one` is right and `other` wrong more often than the reverse."""
    better, worse = int((one & ~other).sum()), int((~one & other).sum())
    return float(binomtest(better, better + worse, alternative="greater").pvalue) if better + worse else 1.0
