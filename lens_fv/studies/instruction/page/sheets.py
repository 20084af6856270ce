"""Detailed result tables of the report."""

from lens_fv.dynamics.trajectory import MEASURES
from lens_fv.studies.instruction.page.recorded import Recorded
from lens_fv.studies.page.markdown import Sheet


def verdicts_sheet(run: Recorded) -> Sheet:
    """Return the verdict on every task of every run."""
    header = [
        "sequence",
        "seed",
        "task",
        "trained",
        "verdict",
        "before",
        "after",
        "with vector",
        "with random",
        "with another's",
    ]
    header += ["recovery", "p lost", "p restored", "knowledge", "low", "high", "items"]
    rows = [
        [
            each.sequence,
            each.seed,
            v.task,
            v.task in each.trained,
            v.judgement,
            v.before.mean,
            v.after.mean,
            v.with_vector.mean,
            v.with_random.mean,
            v.with_other,
            v.recovery,
            v.p_lost,
            v.p_restored,
            *v.knowledge,
        ]
        for each in run.followed
        for v in each.verdicts
    ]
    return Sheet(f"{run.slug}-verdicts", header, rows)


def moments_sheet(run: Recorded) -> Sheet:
    """Return every measure at every checkpoint."""
    header = ["sequence", "seed", "moment", "step", "task", "measure", "mean", "low", "high", "items"]
    rows = [
        [each.sequence, each.seed, each.path.checkpoints[each.path.steps.index(step)], step, task, measure, *found]
        for each in run.followed
        for task in each.path.tasks
        for measure in MEASURES
        for step, found in each.path.curve(measure, task).items()
    ]
    return Sheet(f"{run.slug}-moments", header, rows)
