"""Means with intervals, as dots by category or as lines over a varied quantity."""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import plotly.graph_objects as go

from lens_fv.core.statistics import Estimate
from lens_fv.errors import LensFVError
from lens_fv.plotting.theme import PALETTE, error_bars, figure, plain

Rows = Mapping[str, Mapping[str, Estimate]]


def plot_interval_dots(
    panels: Mapping[str, Rows], *, title: str, axis: str = "", limits: tuple[float, float] | None = None
) -> go.Figure:
    """Plot means with intervals: panels side by side, one row per category, one colour per series.

    Args:
        panels: estimates by panel, series and category. Series and categories may be missing; they are drawn in order of first
            occurrence, from the top.
        title: title of the figure.
        axis: title of the measurement axis; default: none, for panels with different measures in their names.
        limits: limits of the measurement axis in all panels.

    Raises:
        LensFVError: nothing to draw.
    """
    series = list(dict.fromkeys(name for rows in panels.values() for name in rows))
    categories = list(dict.fromkeys(name for rows in panels.values() for row in rows.values() for name in row))
    if not categories:
        raise LensFVError(f"draw {title}: there are no numbers; give at least one")
    step = 0.7 / len(series)
    traces: list[go.Scatter] = []
    for (panel, rows), at in zip(panels.items(), panel_axes(len(panels))):
        for i, (name, colour) in enumerate(zip(series, cycle(PALETTE))):
            row = rows.get(name, {})
            traces.append(
                go.Scatter(
                    x=[e.mean for e in row.values()],
                    y=[categories.index(category) + (i - (len(series) - 1) / 2) * step for category in row],
                    **at,
                    mode="markers",
                    marker={"color": colour, "size": 7},
                    error_x=error_bars(list(row.values()), color=colour, thickness=1.5, width=0),
                    name=plain(name),
                    legendgroup=name,
                    showlegend=len(series) > 1 and panel == next((p for p, found in panels.items() if name in found), panel),
                    hovertext=[f"{plain(panel)}, {plain(category)}, {plain(name)}: {e:.3f}" for category, e in row.items()],
                    hovertemplate="%{hovertext}<extra></extra>",
                )
            )
    ticks = {"tickvals": list(range(len(categories))), "ticktext": [plain(category) for category in categories]}
    names = {**ticks, "showgrid": False, "zeroline": False}
    across = {"title": {"text": plain(axis)}, "nticks": 6, **({"range": list(limits)} if limits else {})}
    # Lines between the rows rather than through the dots.
    between = [
        {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": i - 0.5, "y1": i - 0.5, "layer": "below"}
        | {"line": {"color": "rgba(128,128,128,0.25)", "width": 1}}
        for i in range(1, len(categories))
    ]
    return figure(
        traces,
        title=title,
        height=150 + round(len(categories) * max(24, 13 * len(series))),
        **panel_layout(
            list(panels), across, {"range": [len(categories) - 0.5, -0.5], "showgrid": False, "zeroline": False} | names
        ),
        shapes=between,
    )


def plot_interval_lines(
    lines: Mapping[str, Mapping[float, Estimate]], *, title: str, x_axis: str, y_axis: str, log: bool = False
) -> go.Figure:
    """Plot means with intervals over a varied quantity, as lines with small offsets so that none is hidden.

    Args:
        lines: estimates by line name and value of the varied quantity.
        title: title of the figure.
        x_axis: title of the axis of the varied quantity.
        y_axis: title of the measurement axis.
        log: use a logarithmic horizontal axis.

    Raises:
        LensFVError: nothing to draw.
    """
    at = sorted({x for line in lines.values() for x in line})
    if not at:
        raise LensFVError(f"draw {title}: there are no numbers; give at least one")
    apart = 0.01 * (math.log(at[-1] / at[0]) if log else at[-1] - at[0])

    def beside(x: float, i: int) -> float:
        shift = apart * (i - (len(lines) - 1) / 2)
        return x * math.exp(shift) if log else x + shift

    traces = [
        go.Scatter(
            x=[beside(x, i) for x in sorted(line)],
            y=[line[x].mean for x in sorted(line)],
            error_y=error_bars([line[x] for x in sorted(line)], color=colour, thickness=1.5, width=0),
            mode="lines+markers",
            line={"color": colour, "width": 2},
            marker={"color": colour, "size": 7},
            name=plain(name),
            hovertext=[f"{plain(name)}, {x:g}: {line[x]:.3f}" for x in sorted(line)],
            hovertemplate="%{hovertext}<extra></extra>",
            showlegend=True,
        )
        for i, ((name, line), colour) in enumerate(zip(lines.items(), cycle(PALETTE)))
    ]
    ticks = {"tickvals": at, "ticktext": [f"{x:g}" for x in at], "zeroline": False, "minor": {}}
    return figure(
        traces,
        title=title,
        height=400,
        xaxis={"title": {"text": plain(x_axis)}, "type": "log" if log else "linear", **ticks},
        yaxis={"title": {"text": plain(y_axis)}, "zeroline": True},
    )


def panel_axes(n: int) -> list[dict[str, str]]:
    """Names of the axes of `n` panels."""
    return [{"xaxis": f"x{i or ''}", "yaxis": f"y{i or ''}"} for i in (0, *range(2, n + 1))]


def panel_layout(
    names: Sequence[str], x: Mapping[str, Any], y: Mapping[str, Any], *, columns: int | None = None
) -> dict[str, Any]:
    """Lay out panels side by side, or in rows of `columns`, with names above them and a shared vertical axis."""
    columns, n = columns or len(names), len(names)
    rows = -(-n // columns)
    across, down = 0.06, 0.28 / rows if rows > 1 else 0.0
    width, height = (1 - across * (columns - 1)) / columns, (1 - down * (rows - 1)) / rows
    layout: dict[str, Any] = {"annotations": [], "margin": {"t": 76, "b": 90}}
    for i, (name, at) in enumerate(zip(names, panel_axes(n))):
        start, top = i % columns * (width + across), 1 - i // columns * (height + down)
        same = {} if i == 0 else {"matches": "y"}
        inner = {"showticklabels": False, "ticks": "", "title": {"text": ""}} if i % columns else {}
        above = {"title": {"text": ""}} if i + columns < n else {}
        layout[f"xaxis{at['xaxis'][1:]}"] = {**x, "domain": [start, start + width], "anchor": at["yaxis"], **above}
        layout[f"yaxis{at['yaxis'][1:]}"] = {
            **y,
            "domain": [max(0.0, top - height), top],
            "anchor": at["xaxis"],
            **same,
            **inner,
        }
        place = {"x": start, "y": top, "xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom"}
        layout["annotations"].append({"text": plain(name), "showarrow": False, **place})
    return layout
