"""Figures over many relations: one condition against another, and every vector on every relation."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import plotly.graph_objects as go
from jaxtyping import Float
from numpy import ndarray

from lens_fv.core.choices import Positive, checked
from lens_fv.errors import LensFVError
from lens_fv.plotting.dots import panel_axes, panel_layout
from lens_fv.plotting.similarities import by_class, class_axes
from lens_fv.plotting.theme import GREY, PALETTE, figure, plain


def plot_relations(
    panels: Mapping[str, Mapping[str, tuple[float, float]]],
    groups: Mapping[str, str],
    *,
    title: str,
    x_axis: str,
    y_axis: str,
    limits: tuple[float, float] = (0, 1),
) -> go.Figure:
    """Plot one condition against another, one point per relation, coloured by group; above the line the second is better.

    Args:
        panels: values of both conditions, by panel and relation.
        groups: group of each relation.
        title: title of the figure.
        x_axis: title of the horizontal axis (first condition).
        y_axis: title of the vertical axis (second condition).
        limits: limits of both axes.

    Raises:
        LensFVError: nothing to draw, or a relation without a group.
    """
    names = [name for panel in panels.values() for name in panel]
    lacking = [name for name in names if name not in groups]
    if lacking or not names:
        raise LensFVError(f"draw {len(names)} relations: no group is given for {', '.join(lacking) or 'none, there are none'}")
    kinds = list(dict.fromkeys(groups[name] for name in names))
    traces: list[go.Scatter] = []
    for i, (panel, at) in enumerate(zip(panels, panel_axes(len(panels)))):
        line = {"color": GREY, "width": 1, "dash": "dot"}
        traces.append(go.Scatter(x=limits, y=limits, **at, mode="lines", line=line, hoverinfo="skip", showlegend=False))
        for kind, colour in zip(kinds, cycle(PALETTE)):
            own = {name: xy for name, xy in panels[panel].items() if groups[name] == kind}
            traces.append(
                go.Scatter(
                    x=[x for x, _ in own.values()],
                    y=[y for _, y in own.values()],
                    **at,
                    mode="markers",
                    marker={"color": colour, "size": 7, "opacity": 0.75},
                    cliponaxis=False,
                    name=plain(kind or "no group"),
                    legendgroup=kind,
                    showlegend=i == 0,
                    hovertext=[f"{plain(name)}: {x:.2f}, {y:.2f}" for name, (x, y) in own.items()],
                    hovertemplate="%{hovertext}<extra></extra>",
                )
            )
    axis = {"range": list(limits), "nticks": 6, "zeroline": False}
    return figure(
        traces,
        title=title,
        height=470,
        **panel_layout(list(panels), {**axis, "title": {"text": plain(x_axis)}}, {**axis, "title": {"text": plain(y_axis)}}),
    )


@checked
def plot_transfer(
    values: Float[ndarray, "vectors relations"],
    names: Sequence[str],
    classes: Sequence[str],
    *,
    title: str,
    unit: str,
    limit: Positive | None = None,
) -> go.Figure:
    """Plot the effect of each row's vector on each column's relation, by class, on a diverging scale around zero.

    Up to 60 relations are labelled on the axes; with more, only their classes are. The hover text always names them.

    Args:
        values: effects, vectors by relations, both in the order of `names`; NaN if not measured.
        names: names of the relations.
        classes: class of each relation, drawn in order of first occurrence.
        title: title of the figure.
        unit: unit of the values.
        limit: value at the ends of the colour scale; default: the largest absolute value.

    Raises:
        LensFVError: no values, or numbers of names, classes and values that do not match.
    """
    if not names or not len(names) == len(classes) == len(values) == values.shape[1]:
        raise LensFVError(
            f"draw transfer between {len(names)} relations: values of shape {values.shape}, {len(classes)} classes; one each"
        )
    order = by_class(classes)
    shown, kinds = [plain(names[i]) for i in order], [plain(classes[i] or "no class") for i in order]
    cells = [[None if (v := float(values[i, j])) != v else v for j in order] for i in order]
    hover = [
        [f"vector {a} on {b}: " + ("not tried" if v is None else f"{v:+.3f}") for b, v in zip(shown, row)]
        for a, row in zip(shown, cells)
    ]
    furthest = limit or max((abs(v) for row in cells for v in row if v is not None), default=1.0) or 1.0
    n = len(order)
    axes = class_axes(shown, kinds)
    axes["xaxis"]["title"], axes["yaxis"]["title"] = {"text": "relation"}, {"text": "vector of"}
    return figure(
        [go.Heatmap(z=cells, text=hover, hovertemplate="%{text}<extra></extra>", coloraxis="coloraxis", hoverongaps=False)],
        title=title,
        height=max(260, min(14 * n, 560)) + 180,
        coloraxis={"cmin": -furthest, "cmax": furthest, "colorbar": {"title": {"text": plain(unit), "side": "top"}}},
        **axes,
    )
