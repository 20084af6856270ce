"""Figures of forgetting, recovery by vectors, and changes in head effects."""

from collections.abc import Sequence

import plotly.graph_objects as go
import torch

from lens_fv.core.choices import Whole, checked
from lens_fv.core.statistics import Estimate
from lens_fv.dynamics import Trajectory, Verdict
from lens_fv.errors import LensFVError
from lens_fv.plotting.dots import panel_axes, panel_layout
from lens_fv.plotting.theme import GREY, PALETTE, counting_axis, error_bars, figure, plain

_BARS = {
    "before": ("before", PALETTE[2]),
    "after": ("after", GREY),
    "with_vector": ("after, its vector added", PALETTE[0]),
    "with_random": ("after, a random vector added", PALETTE[4]),
    "with_other": ("after, another task's vector added", PALETTE[3]),
}


def plot_recovery(verdicts: Sequence[Verdict]) -> go.Figure:
    """Plot accuracy before, after, and after with the original vectors added, with Wilson 95 % intervals and verdicts.

    Raises:
        LensFVError: no verdicts.
    """
    if not verdicts:
        raise LensFVError("draw recovery: there are no verdicts; judge at least one task")
    names = [f"{plain(v.task)}<br><i>{v.judgement}</i>" for v in verdicts]
    traces: list[go.Bar] = []
    for field, (label, colour) in _BARS.items():
        shares: list[Estimate] = [getattr(v, field) for v in verdicts]
        values, error, hover = [e.mean for e in shares], error_bars(shares), [f"{e:.3f}" for e in shares]
        mark = {"color": colour, "line": {"color": colour, "width": 1.5}}
        tip = {"text": hover, "textposition": "none", "hovertemplate": "%{x}: %{text}"}
        traces.append(go.Bar(x=names, y=values, name=label, marker=mark, error_y=error, **tip))
    return figure(
        traces,
        title="Accuracy after the instruction",
        height=460,
        barmode="group",
        bargap=0.2,
        xaxis={"type": "category", "showgrid": False},
        yaxis={"title": {"text": "accuracy"}, "range": [0, 1.05]},
    )


def plot_forgetting(trajectory: Trajectory) -> go.Figure:
    """Plot the accuracy of every task (across) before training and at the end of each task's training (down)."""
    at = trajectory.stage_ends
    stages = [trajectory.checkpoints[m].rsplit("/", 1)[0] for m in at]
    rows = ["beginning" if m == 0 else f"after {plain(stage.split('-', 1)[1])}" for m, stage in zip(at, stages, strict=True)]
    names, values = [plain(task) for task in trajectory.tasks], trajectory.accuracy[at].tolist()
    heat = go.Heatmap(
        z=values,
        x=names,
        y=rows,
        text=[[f"{value:.2f}" for value in row] for row in values],
        texttemplate="%{text}",
        hovertemplate="%{x}, %{y}: %{text}<extra></extra>",
        coloraxis="coloraxis",
        xgap=1,
        ygap=1,
    )
    category = {"type": "category", "showgrid": False}
    return figure(
        [heat],
        title=f"Accuracy after the instruction: {trajectory.provenance.model}",
        height=190 + 34 * len(rows),
        coloraxis={"cmin": 0, "cmax": 1, "colorscale": "Viridis", "colorbar": {"title": {"text": "accuracy", "side": "top"}}},
        xaxis=category | {"tickangle": -40},
        yaxis=category | {"autorange": "reversed"},
    )


@checked
def plot_head_change(trajectory: Trajectory, task: str, checkpoint: Whole = -1) -> go.Figure:
    """Plot every head's mean indirect effect before training, at a checkpoint, and the difference: layers across, heads down.

    Args:
        trajectory: trajectory of a fine-tuning run.
        task: name of one of its tasks.
        checkpoint: index of a checkpoint at which heads were ranked again; default: the last.

    Raises:
        LensFVError: a task that was not probed, or a checkpoint without a head ranking.
    """
    if task not in trajectory.tasks:
        raise LensFVError(f"draw the heads of {task}: the trajectory asks about {', '.join(trajectory.tasks)}")
    before, after = trajectory.effects[[0, checkpoint], trajectory.tasks.index(task)]
    if bool(torch.isnan(before).any() or torch.isnan(after).any()):
        raise LensFVError(
            f"draw the heads of {task} at {trajectory.checkpoints[checkpoint]}: they were not ranked then; give the probe "
            "patching_prompts, and choose the end of a task"
        )
    panels = {"before": before, "after": after, "difference": after - before}
    furthest = max(float(each.abs().max()) for each in panels.values()) or 1.0
    layers, heads = before.shape
    traces = [
        go.Heatmap(
            z=effects.T.tolist(),
            **at,
            coloraxis="coloraxis",
            hovertemplate=f"{name}, head %{{x}}.%{{y}}: %{{z:+.3f}}<extra></extra>",
        )
        for (name, effects), at in zip(panels.items(), panel_axes(3))
    ]
    down = counting_axis("head", heads) | {"range": [heads - 0.5, -0.5], "zeroline": False}
    return figure(
        traces,
        title=f"Indirect effect of each head on {task}: {trajectory.provenance.model}",
        height=max(200, 22 * heads) + 180,
        coloraxis={"cmin": -furthest, "cmax": furthest, "colorbar": {"title": {"text": "change in<br>probability"}}},
        # a panel has a third of the figure's width
        **panel_layout(list(panels), counting_axis("layer", layers) | {"zeroline": False, "dtick": max(1, layers // 6)}, down),
    )
