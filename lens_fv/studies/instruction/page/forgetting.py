"""Report section on forgetting, with its figures."""

from collections import Counter
from collections.abc import Iterator
from typing import get_args

import numpy as np

from lens_fv.dynamics.verdict import Judgement
from lens_fv.plotting import (
    plot_abilities,
    plot_forgetting,
    plot_head_change,
    plot_recovery,
    plot_vector_plane,
    plot_vector_similarity,
)
from lens_fv.studies.instruction.page.recorded import Recorded
from lens_fv.studies.page.markdown import NONE, Block, Picture, table

GENERAL = 3
"""Index of general performance among the metrics."""
JUDGEMENTS = get_args(Judgement)


def forgetting(run: Recorded) -> list[Block]:
    """Report the continual learning metrics and the lost tasks."""
    if not run.followed:
        return []
    names = ("average", "final", "forgetting", "general", "in_context")
    rows: list[list[object]] = []
    for sequence, tasks in run.settings["sequences"].items():
        kept = [(each, m) for each in run.followed if each.sequence == sequence for m in [each.metrics] if m is not None]
        columns = [[getattr(metrics, name) for _, metrics in kept] for name in names]
        columns.insert(GENERAL, [each.general_before for each, _ in kept])
        means = [f"{np.mean(v):.2f} ({min(v):.2f} to {max(v):.2f})" if v else NONE for v in columns]
        rows.append([sequence, ", ".join(tasks), *means])
    judged = [("trained" if v.task in each.trained else "not trained", v) for each in run.followed for v in each.verdicts]
    counts = Counter((who, verdict.judgement) for who, verdict in judged)
    absent = any(verdict.judgement == "absent" for _, verdict in judged)
    said = [judgement for judgement in JUDGEMENTS if absent or judgement != "absent"]
    of = [[who, *(counts[who, judgement] for judgement in said)] for who in ("trained", "not trained")]
    return [
        "### Forgetting\n\nMean over seeds, and their range. GP is of tasks that a sequence does not train, before and "
        "behind it.",
        table(["sequence", "tasks", "AP", "FP", "Forget", "GP before", "GP", "IP"], rows, words=2),
        "What became of tasks at the end of a sequence (tasks of runs):",
        table(["tasks", *said], of),
        *_figures(run),
    ]


def _figures(run: Recorded) -> Iterator[Picture]:
    for each in run.followed:
        if each.seed != run.settings["seeds"][0]:
            continue
        about = f"{run.name}, {each.sequence} ({', then '.join(each.trained)}), seed {each.seed}."
        name = f"{run.slug}-{{}}-{each.sequence}"
        yield Picture(name.format("forgetting"), f"Accuracy behind the instruction. {about}", plot_forgetting(each.path))
        yield Picture(name.format("recovery"), f"Accuracy with and without vectors. {about}", plot_recovery(each.verdicts))
        yield Picture(name.format("abilities"), f"How much likelier answers became. {about}", plot_abilities(each.path))
        yield Picture(name.format("similarity"), f"Cosine to the beginning. {about}", plot_vector_similarity(each.path))
        if len(each.path.tasks) > 2:
            yield Picture(name.format("plane"), f"Vectors from before to after. {about}", plot_vector_plane(each.path))
        ranked = [v.task for v in each.verdicts if v.lost]
        for task in ranked[:1]:
            if not each.path.effects[[0, -1], each.path.tasks.index(task)].isnan().any():
                yield Picture(name.format("heads"), f"Effects of heads on {task}. {about}", plot_head_change(each.path, task))
