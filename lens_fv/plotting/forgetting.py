"""Figures of forgetting, recovery by vectors, and changes in head effects."""

from collections.abc import Sequence

import plotly.graph_objects as go

from lens_fv.core.choices import Whole, checked
from lens_fv.dynamics import Trajectory, Verdict
from lens_fv.errors import LensFVError
from lens_fv.plotting.elements import CATEGORY, bars, counting_axis, diverging_colours, heatmap, panel_axes, panel_layout
from lens_fv.plotting.theme import GREY, PALETTE, figure, plain

_CONDITIONS = {
    "before": ("before", PALETTE[2]),
    "after": ("after", GREY),
    "with_vector": ("after, with its own vector", PALETTE[0]),
    "with_random": ("after, with a random vector", PALETTE[4]),
    "with_other": ("after, with another task's vector", PALETTE[3]),
}


@checked
def plot_recovery(verdicts: Sequence[Verdict]) -> go.Figure:
    """Plot accuracy before, after, and after with the original vectors added, with Wilson 95 % intervals and verdicts.

    Raises:
        LensFVError: no verdicts.

    Example:
        >>> lens_fv.plotting.plot_recovery(lens_fv.verdicts(trajectory)).layout.title.text
        'Accuracy after the instruction, before and after fine-tuning'
    """
    if not verdicts:
        raise LensFVError("draw recovery: there are no verdicts; judge at least one task")
    names = [f"{plain(v.task)}<br><i>{v.judgement}</i>" for v in verdicts]
    return figure(
        [
            bars(names, [getattr(v, condition) for v in verdicts], label, colour)
            for condition, (label, colour) in _CONDITIONS.items()
        ],
        title="Accuracy after the instruction, before and after fine-tuning",
        height=460,
        barmode="group",
        bargap=0.2,
        xaxis=CATEGORY,
        yaxis={"title": {"text": "accuracy"}, "range": [0, 1.05]},
    )


@checked
def plot_forgetting(trajectory: Trajectory) -> go.Figure:
    """Plot the accuracy of every task (across) before training and at the end of each task's training (down).

    Example:
        >>> lens_fv.plotting.plot_forgetting(trajectory).layout.title.text
        'Accuracy after the instruction: capable'
    """
    ends = trajectory.stage_ends
    trained = [trajectory.checkpoints[m].rsplit("/", 1)[0].split("-", 1)[-1] for m in ends]
    rows = ["before training" if m == 0 else f"after {plain(task)}" for m, task in zip(ends, trained, strict=True)]
    values = trajectory.accuracy[ends].tolist()
    cells = heatmap(
        values,
        [[f"{value:.2f}" for value in row] for row in values],
        x=[plain(task) for task in trajectory.tasks],
        y=rows,
        texttemplate="%{text}",
        hovertemplate="%{x}, %{y}: %{text}<extra></extra>",
        xgap=1,
        ygap=1,
    )
    return figure(
        [cells],
        title=f"Accuracy after the instruction: {trajectory.provenance.model}",
        height=190 + 34 * len(rows),
        coloraxis={"cmin": 0, "cmax": 1, "colorscale": "Viridis", "colorbar": {"title": {"text": "accuracy", "side": "top"}}},
        xaxis=CATEGORY | {"tickangle": -40},
        yaxis=CATEGORY | {"autorange": "reversed"},
    )


@checked
def plot_head_change(trajectory: Trajectory, task: str, checkpoint: Whole = -1) -> go.Figure:
    """Plot every head's mean indirect effect before training, at a checkpoint, and the difference: layers across, heads down.

    Args:
        trajectory: Trajectory of a fine-tuning run.
        task: Name of one of its tasks.
        checkpoint: Index of a checkpoint at which heads were ranked again; default: the last.

    Raises:
        LensFVError: a task that was not probed, or a checkpoint without a head ranking.

    Example:
        >>> lens_fv.plotting.plot_head_change(trajectory, 'task0').layout.title.text
        'Indirect effect of each head on task0: capable'
    """
    if task not in trajectory.tasks:
        raise LensFVError(f"draw the heads of {task}: the trajectory has the tasks {', '.join(trajectory.tasks)}")
    before, after = trajectory.effects[[0, checkpoint], trajectory.tasks.index(task)]
    if bool(before.isnan().any() or after.isnan().any()):
        raise LensFVError(
            f"draw the heads of {task} at {trajectory.checkpoints[checkpoint]}: they were not ranked then; give the probe "
            "patching_prompts, and choose the end of a task"
        )
    panels = {name: effects.T.tolist() for name, effects in (("before", before), ("after", after), ("change", after - before))}
    layers, heads = before.shape
    traces = [
        go.Heatmap(
            z=effects,
            **axes,
            coloraxis="coloraxis",
            hovertemplate=f"{name}, head %{{x}}.%{{y}}: %{{z:+.3f}}<extra></extra>",
        )
        for (name, effects), axes in zip(panels.items(), panel_axes(3))
    ]
    # A panel has a third of the figure's width.
    x_axis = counting_axis("layer", layers) | {"dtick": max(1, layers // 6)}
    y_axis = counting_axis("head", heads) | {"range": [heads - 0.5, -0.5]}
    return figure(
        traces,
        title=f"Indirect effect of each head on {task}: {trajectory.provenance.model}",
        height=max(200, 22 * heads) + 180,
        coloraxis=diverging_colours(list(panels.values()), "change in<br>probability"),
        **panel_layout(list(panels), x_axis, y_axis),
    )
