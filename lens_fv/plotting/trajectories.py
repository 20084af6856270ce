"""Figures of tasks and their vectors over training steps."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import plotly.graph_objects as go
import torch

from lens_fv.core.choices import checked
from lens_fv.dynamics import Trajectory
from lens_fv.dynamics.trajectory import Measure
from lens_fv.errors import LensFVError
from lens_fv.plotting.elements import curve, panel_axes, panel_layout, points
from lens_fv.plotting.theme import GREY, PALETTE, figure, plain

_ABILITIES: Mapping[Measure, str] = {"instruction": "after the instruction", "knowledge": "in a cloze, without instruction"}
_DASHES = ("solid", "dash", "dot")


@checked
def plot_abilities(trajectory: Trajectory, tasks: Sequence[str] | None = None) -> go.Figure:
    """Plot log-probability gains of the answers by instruction and by knowledge, with 95 % bands; one panel per task.

    Args:
        trajectory: Trajectory of a fine-tuning run. Dotted lines mark the end of each task's training.
        tasks: Names of the tasks to draw; default: all.

    Raises:
        LensFVError: a task that was not probed.

    Example:
        >>> lens_fv.plotting.plot_abilities(trajectory).layout.title.text
        "Change in the answers' log-probability during fine-tuning: capable"
    """
    names = list(trajectory.tasks if tasks is None else tasks)
    traces: list[go.Scatter] = []
    for task, axes in zip(names, panel_axes(len(names))):
        for (measure, label), colour in zip(_ABILITIES.items(), (PALETTE[1], PALETTE[0])):
            estimates = trajectory.curve(measure, task, change=True)
            hover = [f"step {step}: {estimate:+.3f}" for step, estimate in estimates.items()]
            style = {"mode": "lines+markers", "marker": {"size": 4}, "showlegend": task == names[0]}
            traces += curve(list(estimates), list(estimates.values()), colour, hover, name=label, axes=axes, **style)
    columns = min(len(names), 4)
    x_axis = {"title": {"text": "step"}, "zeroline": False}
    y_axis = {"title": {"text": "change (nats per token)"}, "zeroline": True}
    return figure(
        traces,
        title=f"Change in the answers' log-probability during fine-tuning: {trajectory.provenance.model}",
        height=150 + 210 * -(-len(names) // columns),
        **panel_layout(names, x_axis, y_axis, columns=columns),
        shapes=_stage_lines(trajectory, len(names)),
    )


@checked
def plot_vector_similarity(trajectory: Trajectory) -> go.Figure:
    """Plot the similarity of each task's vector to its original value, one line per task.

    Three panels: the vector itself; the residual stream at the injection layer compared with the original vector; and the
    outputs of the vector's heads, each compared with its original, next to equally many random heads (grey, dashed: mean over
    tasks).

    Example:
        >>> lens_fv.plotting.plot_vector_similarity(trajectory).layout.title.text
        'Cosine similarity to the initial vector during fine-tuning: capable'
    """
    own, control = (heads.mean(-1) for heads in trajectory.head_similarity())
    panels = {
        "the vector": trajectory.similarity(),
        "the residual stream and the vector": trajectory.alignment.nanmean(-1),
        "the vector's heads": own,
    }
    traces: list[go.Scatter] = []
    for (panel, values), axes in zip(panels.items(), panel_axes(3)):
        for t, (task, colour) in enumerate(zip(trajectory.tasks, cycle(PALETTE))):
            style = {"color": colour, "width": 1.8, "dash": _DASHES[t // len(PALETTE) % len(_DASHES)]}
            legend = panel == "the vector"
            traces.append(_line(trajectory, values[:, t], plain(task), style, **axes, showlegend=legend))
    style = {"color": GREY, "width": 2.5, "dash": "dash"}
    traces.append(_line(trajectory, control.mean(1), "random heads", style, **panel_axes(3)[2], showlegend=True))
    x_axis, y_axis = {"title": {"text": "step"}, "zeroline": False}, {"title": {"text": "cosine similarity"}}
    return figure(
        traces,
        title=f"Cosine similarity to the initial vector during fine-tuning: {trajectory.provenance.model}",
        height=420 + 18 * (len(trajectory.tasks) // 4),
        **panel_layout(list(panels), x_axis, y_axis),
        shapes=_stage_lines(trajectory, 3),
    )


@checked
def plot_vector_plane(trajectory: Trajectory) -> go.Figure:
    """Plot the path of every task's vector in the plane that best separates the original vectors.

    Vectors are computed with the original output projection and drawn relative to their original norm. The plane is spanned by
    the first two principal components of the original vectors and stays fixed. Arrows go from before to after.

    Raises:
        LensFVError: fewer than three tasks, which do not span a plane.

    Example:
        >>> lens_fv.plotting.plot_vector_plane(trajectory).layout.title.text
        'Instruction vectors before and after fine-tuning: capable'
    """
    if len(trajectory.tasks) < 3:
        raise LensFVError(
            f"draw the vectors of {', '.join(trajectory.tasks)} in a plane: they span none; follow three tasks or more"
        )
    vectors = trajectory.vectors / trajectory.vectors[:1].norm(dim=-1, keepdim=True)
    centre = vectors[0].mean(0)
    _, singular_values, axes = torch.linalg.svd(vectors[0] - centre, full_matrices=False)
    shares = (singular_values**2 / (singular_values**2).sum()).tolist()
    coordinates = (vectors - centre) @ axes[:2].T
    traces: list[go.Scatter] = []
    arrows: list[dict[str, Any]] = []
    for t, (task, colour) in enumerate(zip(trajectory.tasks, cycle(PALETTE))):
        x, y = coordinates[:, t].T.tolist()
        hover = [f"{plain(task)}, step {step}" for step in trajectory.steps]
        style = {"mode": "lines+markers", "line": {"color": colour, "width": 1, "dash": "dot"}, "marker": {"size": 3}}
        traces.append(points(x, y, colour, hover, showlegend=False, **style))
        traces.append(
            go.Scatter(
                x=x[:1],
                y=y[:1],
                mode="markers+text",
                marker={"color": colour, "size": 9},
                text=[plain(task)],
                textposition="top center",
                cliponaxis=False,
                hoverinfo="skip",
                showlegend=False,
            )
        )
        ends = {"x": x[-1], "y": y[-1], "ax": x[0], "ay": y[0], "axref": "x", "ayref": "y", "text": ""}
        arrows.append({**ends, "showarrow": True, "arrowhead": 2, "arrowwidth": 2, "arrowcolor": colour})
    titles = [f"component {i + 1} ({share:.0%} of the variance)" for i, share in enumerate(shares[:2])]
    x_axis, y_axis = ({"zeroline": False, "showgrid": True, "title": {"text": title}} for title in titles)
    return figure(
        traces,
        title=f"Instruction vectors before and after fine-tuning: {trajectory.provenance.model}",
        height=560,
        annotations=arrows,
        xaxis=x_axis,
        yaxis=y_axis,
    )


def _line(trajectory: Trajectory, values: torch.Tensor, name: str, style: Mapping[str, Any], **options: Any) -> go.Scatter:
    group = {"name": name, "legendgroup": name, "hovertemplate": "step %{x}: %{y:.3f}"}
    return go.Scatter(x=list(trajectory.steps), y=values.tolist(), mode="lines", line=dict(style), **group, **options)


def _stage_lines(trajectory: Trajectory, n_panels: int) -> list[dict[str, Any]]:
    """Lines between the training of successive tasks, in every panel."""
    ends = [trajectory.steps[m] for m in trajectory.stage_ends if 0 < m < len(trajectory.checkpoints) - 1]
    line = {"type": "line", "y0": 0, "y1": 1, "layer": "below", "line": {"color": GREY, "width": 1, "dash": "dot"}}
    return [
        line | {"x0": end, "x1": end, "xref": axes["xaxis"], "yref": f"{axes['yaxis']} domain"}
        for axes in panel_axes(n_panels)
        for end in ends
    ]
