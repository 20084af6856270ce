"""Judge whether a lost ability has been overwritten or merely suppressed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool
from scipy.stats import binomtest
from torch import Tensor

from lens_fv.core.choices import Level, NonNegative, Whole, checked
from lens_fv.core.results import Record, Records
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
        task: task name.
        judgement: "absent" if the task was not shown to be present initially (`Trajectory.present`), so that it is not judged
            and its p-values are NaN; "kept" if no loss of accuracy was shown. Among the tasks that lost accuracy, "suppressed"
            if the knowledge is kept and the initial vector restores accuracy, "overwritten" if the knowledge fell and the
            vector restores nothing, else "undecided".
        before, after: accuracy after the instruction, initially and at the judged checkpoint, with Wilson's interval like all
            accuracies here.
        p_lost: p-value of the loss: whether more items turned wrong than right (one-sided exact McNemar test).
        knowledge: mean change of the answers' log-probability in the cloze over items, in nats per token.
        with_vector, with_random, with_other: accuracy at the judged checkpoint with the initial vector added, and with a random
            vector or another task's vector of the same norm.
        p_restored: p-value of the recovery: the larger one of two McNemar tests, against no vector and against the random
            vector. Both p-values are corrected for the number of judged tasks (Holm).
        majority: accuracy of always giving the most frequent answer; NaN if unknown.
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
        trajectory: trajectory that starts with the initial model.
        checkpoint: index of the checkpoint to judge; default: the last one.
        level: significance level of the tests; intervals have confidence 1 - level.
        margin: nats per token by which knowledge may fall and still count as kept.

    Raises:
        LensFVError: no such checkpoint, or the initial model itself.

    Example:
        >>> model = lens_fv.load_model(model_folder)
        >>> task = lens_fv.load_task('antonym')
        >>> ranking = lens_fv.rank_instruction_heads(model, task, n_shots=0, n_clean=2, n_trials=2)
        >>> vector = lens_fv.extract_instruction(model, task, ranking, n_heads=2, layer=1)
        >>> probe = lens_fv.make_task_probe(model, task, vector, n_context=2, max_items=4)
        >>> config = lens_fv.FinetuneConfig(n_examples=4, batch_size=4, n_checkpoints=1, rank=2)
        >>> run = lens_fv.finetune(model_folder, [task], folder / 'run', config)
        >>> trajectory = lens_fv.track_checkpoints(model, run, [probe])
        >>> [(verdict.task, verdict.judgement) for verdict in lens_fv.verdicts(trajectory)]
        [('antonym', 'absent')]
    """
    n = len(trajectory.checkpoints)
    if not -n < checkpoint < n or checkpoint == 0:
        raise LensFVError(f"judge checkpoint {checkpoint} of {n}: give one from 1 to {n - 1}, or from the end")
    vector, random, other = (STEERING_VECTORS.index(name) for name in ("vector", "random", "other"))
    rows: list[tuple[Tensor, ...]] = []
    for t in range(len(trajectory.tasks)):
        there = ~trajectory.correct[0, t].isnan()
        before, after = (trajectory.correct[m, t][there] > 0 for m in (0, checkpoint))
        added = trajectory.steered[checkpoint, t][:, there] > 0
        change = (trajectory.knowledge[checkpoint, t] - trajectory.knowledge[0, t])[there]
        rows.append((before, after, added[vector], added[random], added[other], change))
    present = np.array(trajectory.present(level=1 - level))
    p_lost, p_restored = np.full((2, len(rows)), np.nan)
    p_lost[present] = holm(np.array([_more(b, a) for b, a, *_ in rows])[present])
    p_restored[present] = holm(np.array([max(_more(v, a), _more(v, r)) for _, a, v, r, *_ in rows])[present])
    found: list[Verdict] = []
    most = [float("nan")] * len(rows) if trajectory.majority is None else trajectory.majority.tolist()
    judged = zip(trajectory.tasks, rows, present, p_lost, p_restored, most, strict=True)
    for task, (*right, change), there, lost, restored, majority in judged:
        knowledge = estimate(change.tolist(), level=1 - level, seed=trajectory.provenance.seed)
        judgement = _judge(float(lost) < level, float(restored) < level, knowledge, margin) if there else "absent"
        before, after, with_vector, with_random, with_other = (proportion(int(each.sum()), len(each)) for each in right)
        found.append(
            Verdict(
                task,
                judgement,
                before,
                after,
                float(lost),
                knowledge,
                with_vector,
                with_random,
                with_other,
                float(restored),
                majority,
            )
        )
    return Verdicts(found)


def _judge(lost: bool, restored: bool, knowledge: Estimate, margin: float) -> Judgement:
    if not lost:
        return "kept"
    if restored and knowledge.ci_low > -margin:
        return "suppressed"
    return "overwritten" if not restored and knowledge.ci_high < -margin else "undecided"


def _more(one: Bool[Tensor, " items"], other: Bool[Tensor, " items"]) -> float:
    """One-sided exact McNemar test of whether `one` is right and `other` wrong more often than the reverse."""
    better, worse = int((one & ~other).sum()), int((~one & other).sum())
    return float(binomtest(better, better + worse, alternative="greater").pvalue) if better + worse else 1.0


@dataclass(frozen=True, repr=False)
class ContinualMetrics(Record):
    """Continual learning metrics of a task sequence, after Jiang et al. (2025).

    Attributes:
        average: mean accuracy of the trained tasks, each measured right after its training ("AP"), whether or not the task was
            present initially.
        final: mean accuracy of the trained tasks at the end of the run ("FP").
        forgetting: `average` minus `final` ("Forget").
        general: mean accuracy after the instruction, at the end, of the tasks that were not trained and were present initially
            (`Trajectory.present`; "GP"); NaN without such tasks.
        in_context: the same as `general`, with demonstrations ("IP").
        matrix: accuracy of each trained task (columns) after the training of each (rows).
    """

    average: float
    final: float
    forgetting: float
    general: float
    in_context: float
    matrix: list[list[float]]

    def records(self) -> list[Mapping[str, Any]]:
        """One row of the five metrics; the matrix is left out."""
        return [{name: value for name, value in super().records()[0].items() if name != "matrix"}]


def continual_metrics(trajectory: Trajectory, trained: Sequence[str]) -> ContinualMetrics:
    """Compute continual learning metrics at the end of a run.

    Args:
        trajectory: trajectory that includes the last checkpoint of every trained task.
        trained: the run's tasks in order: `run.tasks`.

    Raises:
        LensFVError: a trained task was not measured, or the trajectory lacks its last checkpoint. A checkpoint during its
            training, which has no in-context measurement, cannot replace it.
    """
    unknown = [task for task in trained if task not in trajectory.tasks]
    measured = {trajectory.checkpoints[m].rsplit("/", 1)[0]: m for m in trajectory.stage_ends}
    stages = [f"{i}-{task}" for i, task in enumerate(trained)]
    if unknown or not trained or not all(stage in measured for stage in stages):
        ends = ", ".join(trajectory.checkpoints[m] for m in trajectory.stage_ends if m) or "none"
        raise LensFVError(
            f"metrics of a run of {', '.join(trained) or 'no tasks'}: the trajectory has {', '.join(trajectory.tasks)} at "
            f"{', '.join(trajectory.checkpoints)}, of which ends of tasks: {ends}; it needs all of these tasks and their ends"
        )
    columns = [trajectory.tasks.index(task) for task in trained]
    matrix = trajectory.accuracy[[measured[stage] for stage in stages]][:, columns]
    present = trajectory.present()
    others = [t for t, task in enumerate(trajectory.tasks) if task not in trained and present[t]]
    average, final = float(matrix.diagonal().mean()), float(matrix[-1].mean())
    at = measured[stages[-1]]
    general = float(trajectory.accuracy[at, others].mean()) if others else float("nan")
    context = float(trajectory.in_context[at, others].nanmean(-1).mean()) if others else float("nan")
    return ContinualMetrics(average, final, average - final, general, context, matrix.tolist())
