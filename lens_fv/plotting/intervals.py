"""Means with intervals, as dots by category or as lines over a varied quantity."""

import math
from collections.abc import Mapping
from itertools import cycle

import plotly.graph_objects as go

from lens_fv.core.choices import checked
from lens_fv.core.statistics import Estimate
from lens_fv.errors import LensFVError
from lens_fv.plotting.elements import error_bars, panel_axes, panel_layout, points
from lens_fv.plotting.theme import PALETTE, figure, plain

Rows = Mapping[str, Mapping[str, Estimate]]


@checked
def plot_interval_dots(
    panels: Mapping[str, Rows], *, title: str, axis: str = "", limits: tuple[float, float] | None = None
) -> go.Figure:
    """Plot means with intervals: panels side by side, one row per category, one colour per series.

    Args:
        panels: Estimates by panel, series and category. Series and categories may be missing; they are drawn in order of first
            occurrence, from the top.
        title: Title of the figure.
        axis: Title of the measurement axis; default: none, for panels with different measures in their names.
        limits: Limits of the measurement axis in all panels.

    Raises:
        LensFVError: nothing to draw.

    Example:
        >>> rows = {'extracted': Estimate(0.4, 0.3, 0.5, 20), 'tuned': Estimate(0.7, 0.6, 0.8, 20)}
        >>> lens_fv.plotting.plot_interval_dots({'antonym': {'accuracy': rows}}, title='Accuracy').layout.title.text
        'Accuracy'
    """
    first_panel = {name: panel for panel in reversed(list(panels)) for name in panels[panel]}
    series = list(dict.fromkeys(name for rows in panels.values() for name in rows))
    categories = list(dict.fromkeys(name for rows in panels.values() for row in rows.values() for name in row))
    if not categories:
        raise LensFVError(f"draw {title}: there are no numbers; give at least one")
    step = 0.7 / len(series)
    traces: list[go.Scatter] = []
    for (panel, rows), axes in zip(panels.items(), panel_axes(len(panels))):
        for i, (name, colour) in enumerate(zip(series, cycle(PALETTE))):
            row = rows.get(name, {})
            traces.append(
                points(
                    [e.mean for e in row.values()],
                    [categories.index(category) + (i - (len(series) - 1) / 2) * step for category in row],
                    colour,
                    [f"{plain(panel)}, {plain(category)}, {plain(name)}: {e:.3f}" for category, e in row.items()],
                    **axes,
                    error_x=error_bars(list(row.values()), color=colour, thickness=1.5, width=0),
                    name=plain(name),
                    legendgroup=name,
                    showlegend=len(series) > 1 and first_panel[name] == panel,
                )
            )
    x_axis = {"title": {"text": plain(axis)}, "nticks": 6}
    if limits:
        x_axis["range"] = list(limits)
    y_axis = {"range": [len(categories) - 0.5, -0.5], "showgrid": False, "zeroline": False}
    ticks = {"tickvals": list(range(len(categories))), "ticktext": [plain(category) for category in categories]}
    # Lines between the rows rather than through the dots.
    separators = [
        {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": i - 0.5, "y1": i - 0.5, "layer": "below"}
        | {"line": {"color": "rgba(128,128,128,0.25)", "width": 1}}
        for i in range(1, len(categories))
    ]
    return figure(
        traces,
        title=title,
        height=150 + round(len(categories) * max(24, 13 * len(series))),
        **panel_layout(list(panels), x_axis, y_axis | ticks),
        shapes=separators,
    )


@checked
def plot_interval_lines(
    lines: Mapping[str, Mapping[float, Estimate]], *, title: str, x_axis: str, y_axis: str, log: bool = False
) -> go.Figure:
    """Plot means with intervals over a varied quantity, as lines with small offsets so that none is hidden.

    Args:
        lines: Estimates by line name and value of the varied quantity.
        title: Title of the figure.
        x_axis: Title of the axis of the varied quantity.
        y_axis: Title of the measurement axis.
        log: Use a logarithmic horizontal axis.

    Raises:
        LensFVError: nothing to draw.

    Example:
        >>> line = {5.0: Estimate(0.4, 0.3, 0.5, 20), 10.0: Estimate(0.7, 0.6, 0.8, 20)}
        >>> axes = {'x_axis': 'pairs', 'y_axis': 'accuracy'}
        >>> lens_fv.plotting.plot_interval_lines({'tuned': line}, title='Pairs', **axes).layout.title.text
        'Pairs'
    """
    values = sorted({x for line in lines.values() for x in line})
    if not values:
        raise LensFVError(f"draw {title}: there are no numbers; give at least one")
    gap = 0.01 * (math.log(values[-1] / values[0]) if log else values[-1] - values[0])
    traces: list[go.Scatter] = []
    for i, ((name, line), colour) in enumerate(zip(lines.items(), cycle(PALETTE))):
        offset, xs = gap * (i - (len(lines) - 1) / 2), sorted(line)
        traces.append(
            points(
                [x * math.exp(offset) if log else x + offset for x in xs],
                [line[x].mean for x in xs],
                colour,
                [f"{plain(name)}, {x:g}: {line[x]:.3f}" for x in xs],
                error_y=error_bars([line[x] for x in xs], color=colour, thickness=1.5, width=0),
                mode="lines+markers",
                line={"color": colour, "width": 2},
                name=plain(name),
                showlegend=True,
            )
        )
    ticks = {"tickvals": values, "ticktext": [f"{x:g}" for x in values], "zeroline": False, "minor": {}}
    return figure(
        traces,
        title=title,
        height=400,
        xaxis={"title": {"text": plain(x_axis)}, "type": "log" if log else "linear", **ticks},
        yaxis={"title": {"text": plain(y_axis)}, "zeroline": True},
    )
