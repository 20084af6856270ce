"""Figures over many relations: one condition against another, every vector on every relation, and similarities."""

from collections.abc import Mapping, Sequence
from itertools import cycle, groupby

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from lens_fv.core.choices import Positive, checked
from lens_fv.errors import LensFVError
from lens_fv.evaluation.alignment import SimilarityMatrix
from lens_fv.plotting.elements import diverging_colours, heatmap, identity_line, panel_axes, panel_layout, points
from lens_fv.plotting.theme import GREY, PALETTE, figure, plain


@checked
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
        panels: Values of both conditions, by panel and relation.
        groups: Group of each relation.
        title: Title of the figure.
        x_axis: Title of the horizontal axis (first condition).
        y_axis: Title of the vertical axis (second condition).
        limits: Limits of both axes.

    Raises:
        LensFVError: nothing to draw, or a relation without a group.

    Example:
        >>> points = {'accuracy': {'antonym': (0.2, 0.6), 'synonym': (0.1, 0.3)}}
        >>> groups = {'antonym': 'meaning', 'synonym': 'meaning'}
        >>> axes = {'x_axis': 'extracted', 'y_axis': 'tuned'}
        >>> lens_fv.plotting.plot_relations(points, groups, title='Relations', **axes).layout.title.text
        'Relations'
    """
    names = [name for panel in panels.values() for name in panel]
    missing = [name for name in names if name not in groups]
    if missing or not names:
        raise LensFVError(f"draw {len(names)} relations: no group is given for {', '.join(missing) or 'none, there are none'}")
    traces: list[go.Scatter] = []
    for (panel, values), axes in zip(panels.items(), panel_axes(len(panels))):
        traces.append(identity_line(*limits, **axes))
        for group, colour in zip(dict.fromkeys(groups[name] for name in names), cycle(PALETTE)):
            members = {name: xy for name, xy in values.items() if groups[name] == group}
            traces.append(
                points(
                    [x for x, _ in members.values()],
                    [y for _, y in members.values()],
                    colour,
                    [f"{plain(name)}: {x:.2f}, {y:.2f}" for name, (x, y) in members.items()],
                    **axes,
                    marker={"opacity": 0.75},
                    cliponaxis=False,
                    name=plain(group or "no group"),
                    legendgroup=group,
                    showlegend=panel == next(iter(panels)),
                )
            )
    axis = {"range": list(limits), "nticks": 6, "zeroline": False}
    x, y = ({**axis, "title": {"text": plain(text)}} for text in (x_axis, y_axis))
    return figure(traces, title=title, height=470, **panel_layout(list(panels), x, y))


@checked
def plot_transfer(
    values: Float[np.ndarray, "vectors relations"],
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
        values: Effects, vectors by relations, both in the order of `names`; NaN if not measured.
        names: Names of the relations.
        classes: Class of each relation, drawn in order of first occurrence.
        title: Title of the figure.
        unit: Unit of the values.
        limit: Value at the ends of the colour scale; default: the largest absolute value.

    Raises:
        LensFVError: no values, or numbers of names, classes and values that do not match.

    Example:
        >>> import numpy as np
        >>> effects = np.array([[0.8, 0.1], [0.0, 0.6]])
        >>> names, classes = ['antonym', 'synonym'], ['opposite', 'similar']
        >>> lens_fv.plotting.plot_transfer(effects, names, classes, title='Transfer', unit='nats').layout.title.text
        'Transfer'
    """
    if not names or not len(names) == len(classes) == len(values) == values.shape[1]:
        raise LensFVError(
            f"draw transfer between {len(names)} relations: values of shape {values.shape}, {len(classes)} classes; one each"
        )
    names = [plain(name) for name in names]
    hover = [[f"vector {row} on {column}: " for column in names] for row in names]
    drawn = _class_heatmap(values, names, classes, hover, missing="not tried", title=title, unit=unit, limit=limit)
    height = max(260, min(14 * len(names), 560)) + 180
    return drawn.update_layout(height=height, xaxis_title_text="relation", yaxis_title_text="vector of")


@checked
def plot_similarities(matrix: SimilarityMatrix, classes: Sequence[str], *, title: str = "Similarity") -> go.Figure:
    """Plot a similarity matrix ordered by taxonomy, with lines between classes, on a diverging scale around zero.

    Up to 60 items are labelled on the axes; with more, only their classes are. The hover text always names them. The diagonal
    is left empty.

    Args:
        matrix: Similarity matrix of any items.
        classes: Class of each item, in the order of the matrix; drawn in order of first occurrence.
        title: Title of the figure.

    Raises:
        LensFVError: unequal numbers of classes and items.

    Example:
        >>> matrix = lens_fv.evaluation.alignment.similarity_matrix(library)
        >>> lens_fv.plotting.plot_similarities(matrix, ['words', 'letters']).layout.title.text
        'Similarity'
    """
    if len(classes) != len(matrix.names):
        raise LensFVError(f"draw similarities of {len(matrix.names)} items: {len(classes)} classes; give one for each")
    names = [plain(name) for name in matrix.names]
    items = [f"{name} ({plain(label or 'no class')})" for name, label in zip(names, classes)]
    hover = [[f"{row}, {column}: " for column in items] for row in items]
    values = np.where(np.eye(len(names), dtype=bool), np.nan, matrix.values)
    return _class_heatmap(values, names, classes, hover, missing="not compared", title=title, unit="similarity")


def _class_heatmap(
    values: Float[np.ndarray, "items items"],
    names: Sequence[str],
    classes: Sequence[str],
    hover: Sequence[Sequence[str]],
    *,
    missing: str,
    title: str,
    unit: str,
    limit: float | None = None,
) -> go.Figure:
    """Draw a square of items sorted by class, with lines between classes; NaN is left empty and hovers as `missing`."""
    n, labels = len(names), list(dict.fromkeys(classes))
    order = sorted(range(n), key=lambda i: labels.index(classes[i]))
    cells = [[None if np.isnan(values[i, j]) else float(values[i, j]) for j in order] for i in order]
    texts = [
        [hover[i][j] + (missing if value is None else f"{value:+.3f}") for j, value in zip(order, row)]
        for i, row in zip(order, cells)
    ]
    sizes = {label: len(list(group)) for label, group in groupby(classes[i] for i in order)}
    ends = np.cumsum(list(sizes.values())).tolist()
    ticks = {"tickvals": list(range(n)), "ticktext": [names[i] for i in order]}
    if n > 60:
        ticks["tickvals"] = [end - (size + 1) / 2 for end, size in zip(ends, sizes.values())]
        ticks["ticktext"] = [plain(label or "no class") for label in sizes]
    line = {"type": "line", "line": {"color": GREY, "width": 1}, "layer": "above"}
    columns = [line | {"x0": end - 0.5, "x1": end - 0.5, "y0": -0.5, "y1": n - 0.5} for end in ends[:-1]]
    rows = [line | {"y0": end - 0.5, "y1": end - 0.5, "x0": -0.5, "x1": n - 0.5} for end in ends[:-1]]
    axis = {"showgrid": False, "zeroline": False, "range": [-0.5, n - 0.5]} | ticks
    return figure(
        [heatmap(cells, texts, hoverongaps=False)],
        title=title,
        height=max(260, min(14 * n, 900)) + 160,
        coloraxis=diverging_colours(cells, plain(unit), limit),
        xaxis=axis | {"tickangle": -60},
        yaxis=axis | {"range": [n - 0.5, -0.5]},
        shapes=columns + rows,
    )
