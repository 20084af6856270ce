"""Figures of tasks and their vectors over training steps."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import plotly.graph_objects as go
import torch

from lens_fv.core.statistics import Estimate
from lens_fv.dynamics import Trajectory
from lens_fv.dynamics.trajectory import Measure
from lens_fv.errors import LensFVError
from lens_fv.plotting.dots import panel_axes, panel_layout
from lens_fv.plotting.theme import GREY, PALETTE, figure, plain, tint

_ABILITIES: Mapping[Measure, str] = {"instruction": "after the instruction", "knowledge": "in a cloze, without instruction"}
_DASHES = ("solid", "dash", "dot")


def plot_abilities(trajectory: Trajectory, tasks: Sequence[str] | None = None) -> go.Figure:
    """Plot log-probability gains of the answers by instruction and by knowledge, with 95 % bands; one panel per task.

    Args:
        trajectory: trajectory of a fine-tuning run. Dotted lines mark the end of each task's training.
        tasks: names of the tasks to draw; default: all.

    Raises:
        LensFVError: a task that was not probed.
    """
    names = list(tasks if tasks is not None else trajectory.tasks)
    columns = min(len(names), 4)
    traces: list[go.Scatter] = []
    for task, at in zip(names, panel_axes(len(names))):
        for (measure, label), colour in zip(_ABILITIES.items(), (PALETTE[1], PALETTE[0])):
            curve = trajectory.curve(measure, task, change=True)
            traces += _band(curve, f"{plain(task)}, {label}", colour, at)
            traces.append(_line(curve, label, colour, at, first=task == names[0]))
    rows = -(-len(names) // columns)
    return figure(
        traces,
        title=f"Log-probability of the answers since the beginning: {trajectory.provenance.model}",
        height=150 + 210 * rows,
        **panel_layout(
            names,
            {"title": {"text": "step"}, "zeroline": False},
            {"title": {"text": "change (nats a token)"}, "zeroline": True},
            columns=columns,
        ),
        shapes=_ends(trajectory, len(names)),
    )


def plot_vector_similarity(trajectory: Trajectory) -> go.Figure:
    """Plot the similarity of each task's vector to its original value, one line per task.

    Three panels: the vector itself; the residual stream at the injection layer compared with the original vector; and the
    outputs of the vector's heads, each compared with its original, next to equally many random heads (grey, dashed: mean over
    tasks).
    """
    own, control = (heads.mean(-1) for heads in trajectory.head_similarity())
    use = trajectory.alignment.nanmean(-1)
    panels = {"the vector": trajectory.similarity(), "the residual stream, to the vector": use, "the vector's heads": own}
    traces: list[go.Scatter] = []
    for (name, values), at in zip(panels.items(), panel_axes(3)):
        for t, (task, colour) in enumerate(zip(trajectory.tasks, cycle(PALETTE))):
            style = {"color": colour, "width": 1.8, "dash": _DASHES[t // len(PALETTE) % len(_DASHES)]}
            traces.append(_plain_line(trajectory, values[:, t], plain(task), style, at, legend=name == "the vector"))
    style = {"color": GREY, "width": 2.5, "dash": "dash"}
    traces.append(_plain_line(trajectory, control.mean(1), "random heads", style, panel_axes(3)[2], legend=True))
    return figure(
        traces,
        title=f"Cosine over fine-tuning: {trajectory.provenance.model}",
        height=420 + 18 * (len(trajectory.tasks) // 4),
        **panel_layout(list(panels), {"title": {"text": "step"}, "zeroline": False}, {"title": {"text": "cosine"}}),
        shapes=_ends(trajectory, 3),
    )


def plot_vector_plane(trajectory: Trajectory) -> go.Figure:
    """Plot the path of every task's vector in the plane that best separates the original vectors.

    Vectors are computed with the original output projection and drawn relative to their original norm. The plane is spanned by
    the first two principal components of the original vectors and stays fixed. Arrows go from before to after.

    Raises:
        LensFVError: fewer than three tasks, which do not span a plane.
    """
    if len(trajectory.tasks) < 3:
        raise LensFVError(
            f"draw the vectors of {', '.join(trajectory.tasks)} in a plane: they span none; follow three tasks or more"
        )
    vectors = trajectory.vectors / trajectory.vectors[:1].norm(dim=-1, keepdim=True)
    centre = vectors[0].mean(0)
    _, lengths, axes = torch.linalg.svd(vectors[0] - centre, full_matrices=False)
    shares = (lengths**2 / (lengths**2).sum()).tolist()
    places = (vectors - centre) @ axes[:2].T
    traces: list[go.Scatter] = []
    arrows: list[dict[str, Any]] = []
    for t, (task, colour) in enumerate(zip(trajectory.tasks, cycle(PALETTE))):
        x, y = places[:, t].T.tolist()
        hover = [f"{plain(task)}, step {step}" for step in trajectory.steps]
        tip = {"text": hover, "hovertemplate": "%{text}<extra></extra>", "showlegend": False}
        traces.append(
            go.Scatter(
                x=x, y=y, mode="lines+markers", line={"color": colour, "width": 1, "dash": "dot"}, marker={"size": 3}, **tip
            )
        )
        name = {"text": [plain(task)], "textposition": "top center", "hoverinfo": "skip", "showlegend": False}
        traces.append(
            go.Scatter(x=x[:1], y=y[:1], mode="markers+text", cliponaxis=False, marker={"color": colour, "size": 9}, **name)
        )
        ends = {"x": x[-1], "y": y[-1], "ax": x[0], "ay": y[0], "axref": "x", "ayref": "y", "text": ""}
        arrows.append({**ends, "showarrow": True, "arrowhead": 2, "arrowwidth": 2, "arrowcolor": colour})
    axis = {"zeroline": False, "showgrid": True}
    titles = [f"component {i + 1} ({share:.0%} of the variance)" for i, share in enumerate(shares[:2])]
    return figure(
        traces,
        title=f"Instruction vectors from before to after: {trajectory.provenance.model}",
        height=560,
        annotations=arrows,
        xaxis=axis | {"title": {"text": titles[0]}},
        yaxis=axis | {"title": {"text": titles[1]}},
    )


def _line(curve: Mapping[int, Estimate], label: str, colour: str, at: Mapping[str, str], *, first: bool) -> go.Scatter:
    hover = [f"step {step}: {e:+.3f}" for step, e in curve.items()]
    return go.Scatter(
        x=list(curve),
        y=[e.mean for e in curve.values()],
        **at,
        mode="lines+markers",
        line={"color": colour, "width": 2},
        marker={"size": 4},
        name=label,
        legendgroup=label,
        showlegend=first,
        text=hover,
        hovertemplate="%{text}",
    )


def _band(curve: Mapping[int, Estimate], name: str, colour: str, at: Mapping[str, str]) -> list[go.Scatter]:
    steps, low, high = list(curve), [e.ci_low for e in curve.values()], [e.ci_high for e in curve.values()]
    band = {"x": steps + steps[::-1], "y": high + low[::-1], "fill": "toself", "fillcolor": tint(colour, 0.16)}
    return [go.Scatter(**band, **at, mode="lines", line={"width": 0}, name=name, hoverinfo="skip", showlegend=False)]


def _plain_line(
    trajectory: Trajectory, values: torch.Tensor, name: str, style: Mapping[str, Any], at: Mapping[str, str], *, legend: bool
) -> go.Scatter:
    tip = {"hovertemplate": "step %{x}: %{y:.3f}", "name": name, "legendgroup": name, "showlegend": legend}
    return go.Scatter(x=list(trajectory.steps), y=values.tolist(), **at, mode="lines", line=dict(style), **tip)


def _ends(trajectory: Trajectory, n: int) -> list[dict[str, Any]]:
    """Draw lines between the training of successive tasks, in every panel."""
    ends = [trajectory.steps[m] for m in trajectory.stage_ends if 0 < m < len(trajectory.checkpoints) - 1]
    line = {"type": "line", "y0": 0, "y1": 1, "layer": "below", "line": {"color": GREY, "width": 1, "dash": "dot"}}
    return [
        line | {"x0": end, "x1": end, "xref": at["xaxis"], "yref": f"{at['yaxis']} domain"}
        for at in panel_axes(n)
        for end in ends
    ]
