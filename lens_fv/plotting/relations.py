"""Many relations at once: one vector against another on each, and every vector on every relation."""

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


def relation_scatter(
    panels: Mapping[str, Mapping[str, tuple[float, float]]],
    groups: Mapping[str, str],
    *,
    title: str,
    x_axis: str,
    y_axis: str,
    limits: tuple[float, float] = (0, 1),
) -> go.Figure:
    """One condition against another, a point a relation, coloured by group; above the dotted line, the second is better.

    Args:
        panels: by panel and relation, both numbers.
        groups: of the relations.
        title: what is shown.
        x_axis: what the first number is.
        y_axis: what the second one is.
        limits: of both axes.

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
def transfer_heatmap(
    values: Float[ndarray, "vectors relations"],
    names: Sequence[str],
    classes: Sequence[str],
    *,
    title: str,
    unit: str,
    limit: Positive | None = None,
) -> go.Figure:
    """What the vector of each row does to the relation of each column, by class, on a diverging scale around zero.

    Up to 60 relations are written on the axes, of more only their classes; the hover text has all.

    Args:
        values: vector by relation, both in the order of `names`; not a number where it was not tried.
        names: of the relations.
        classes: of each relation; drawn in the order in which they first come.
        title: what is shown.
        unit: of the values.
        limit: where colours end; default: the furthest value from zero.

    Raises:
        LensFVError: another number of names, classes and values, or none.
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
