"""Traces, axes and panels that several figures share."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from lens_fv.core.statistics import Estimate
from lens_fv.plotting.theme import GREY, plain

CATEGORY = {"type": "category", "showgrid": False}
HOVER_TEXT = "%{hovertext}<extra></extra>"
MEASURE_AXES = {
    "top1": "first-token accuracy",
    "exact_match": "exact match",
    "logprob_per_answer": "mean log-probability of the answer (nats)",
}


def points(x: Sequence[Any], y: Sequence[Any], colour: str, hover: Sequence[str], **options: Any) -> go.Scatter:
    """Markers with a hover text each."""
    marker = {"color": colour, "size": 7, **options.pop("marker", {})}
    return go.Scatter(x=x, y=y, marker=marker, hovertext=hover, hovertemplate=HOVER_TEXT, **{"mode": "markers"} | options)


def identity_line(low: float | int, high: float | int, **axes: str) -> go.Scatter:
    """The dotted line on which both coordinates are equal."""
    line = {"color": GREY, "width": 1, "dash": "dot"}
    return go.Scatter(x=[low, high], y=[low, high], **axes, mode="lines", line=line, hoverinfo="skip", showlegend=False)


def curve(
    x: Sequence[Any],
    estimates: Sequence[Estimate],
    colour: str,
    hover: Sequence[str],
    *,
    name: str,
    axes: Mapping[str, str] | None = None,
    **style: Any,
) -> list[go.Scatter]:
    """A line of means with a hover text each, in the translucent area between the ends of their intervals."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    shared = {"name": name, "legendgroup": name, **(axes or {})}
    band = go.Scatter(
        x=[*x, *reversed(x)],
        y=[*(e.ci_high for e in estimates), *(e.ci_low for e in reversed(estimates))],
        fill="toself",
        fillcolor=f"rgba({red},{green},{blue},0.16)",
        mode="lines",
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
        **shared,
    )
    line = {"mode": "lines", "line": {"color": colour, "width": 2}, "text": hover, "hovertemplate": "%{text}"}
    return [band, go.Scatter(x=x, y=[e.mean for e in estimates], **shared, **(line | style))]


def bars(x: Sequence[str], estimates: Sequence[Estimate], name: str, colour: str, **options: Any) -> go.Bar:
    """Bars with the intervals of the estimates; an outline makes a zero visible as a line."""
    return go.Bar(
        x=x,
        y=[e.mean for e in estimates],
        name=name,
        marker={"color": colour, "line": {"color": colour, "width": 1.5}},
        error_y=error_bars(estimates),
        text=[f"{e:.3f}, {e.n} items" for e in estimates],
        textposition="none",
        hovertemplate="%{x}: %{text}",
        **options,
    )


def error_bars(estimates: Sequence[Estimate], **style: Any) -> dict[str, Any]:
    """Error bars to the ends of the intervals of `estimates`."""
    # A percentile interval of a skewed sample need not contain the mean, and an error bar cannot be negative.
    up = [max(0.0, e.ci_high - e.mean) for e in estimates]
    down = [max(0.0, e.mean - e.ci_low) for e in estimates]
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, **style}


def heatmap(values: Sequence[Sequence[float | None]], hover: Sequence[Sequence[str]], **options: Any) -> go.Heatmap:
    """Cells on the figure's colour axis, with a hover text each."""
    return go.Heatmap(z=values, text=hover, coloraxis="coloraxis", **{"hovertemplate": "%{text}<extra></extra>"} | options)


def diverging_colours(values: Sequence[Any], title: str, limit: float | None = None) -> dict[str, Any]:
    """A colour axis symmetric around zero, up to `limit` or the largest absolute value; None and NaN are ignored."""
    limit = limit or float(np.nan_to_num(np.abs(np.array(values, dtype=float))).max()) or 1.0
    return {"cmin": -limit, "cmax": limit, "colorbar": {"title": {"text": title, "side": "top"}}}


def counting_axis(title: str, n: int) -> dict[str, Any]:
    """Make an axis over 0..n-1 with a tick for each, labelling every one, every second, every fifth, ..."""
    step = next(step for step in (1, 2, 5, 10, 20, 50, n) if n / step <= 20)
    ticks = {"dtick": step, "tick0": 0, "tickangle": 0, "minor": {"dtick": 1, "ticks": "outside", "ticklen": 2}}
    if n > 100:
        ticks["minor"] = {}
    return {"title": {"text": title}, "showgrid": False, "zeroline": False, **ticks}


def caption(text: str, x: float = 0.0, y: float = 1.0) -> dict[str, Any]:
    """A line of text whose lower left corner is at this share of the figure's width and height."""
    corner = {"x": x, "y": y, "xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom"}
    return {"text": plain(text), "showarrow": False, **corner}


def panel_axes(n: int) -> list[dict[str, str]]:
    """Names of the axes of `n` panels."""
    return [{"xaxis": f"x{i or ''}", "yaxis": f"y{i or ''}"} for i in (0, *range(2, n + 1))]


def panel_layout(
    names: Sequence[str], x: Mapping[str, Any], y: Mapping[str, Any], *, columns: int | None = None
) -> dict[str, Any]:
    """Lay out panels side by side, or in rows of `columns`, with names above them and a shared vertical axis."""
    columns, n = columns or len(names), len(names)
    rows = -(-n // columns)
    x_gap, y_gap = 0.06, 0.28 / rows if rows > 1 else 0.0
    width, height = (1 - x_gap * (columns - 1)) / columns, (1 - y_gap * (rows - 1)) / rows
    layout: dict[str, Any] = {"annotations": [], "margin": {"t": 76, "b": 90}}
    for i, (name, axes) in enumerate(zip(names, panel_axes(n))):
        left, top = i % columns * (width + x_gap), 1 - i // columns * (height + y_gap)
        x_axis = {**x, "domain": [left, left + width], "anchor": axes["yaxis"]}
        y_axis = {**y, "domain": [max(0.0, top - height), top], "anchor": axes["xaxis"]}
        if i + columns < n:
            x_axis["title"] = {"text": ""}
        if i > 0:
            y_axis["matches"] = "y"
        if i % columns:
            y_axis |= {"showticklabels": False, "ticks": "", "title": {"text": ""}}
        layout[f"xaxis{axes['xaxis'][1:]}"], layout[f"yaxis{axes['yaxis'][1:]}"] = x_axis, y_axis
        layout["annotations"].append(caption(name, left, top))
    return layout
