"""Heatmaps of similarities between relations."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import plotly.graph_objects as go

from lens_fv.errors import LensFVError
from lens_fv.evaluation.alignment import SimilarityMatrix
from lens_fv.plotting.theme import GREY, figure, plain


def plot_similarities(matrix: SimilarityMatrix, classes: Sequence[str], *, title: str = "Similarity") -> go.Figure:
    """Plot a similarity matrix ordered by taxonomy, with lines between classes, on a diverging scale around zero.

    Up to 60 items are labelled on the axes; with more, only their classes are. The hover text always names them. The diagonal
    is left empty.

    Args:
        matrix: similarity matrix of any items.
        classes: class of each item, in the order of the matrix; drawn in order of first occurrence.
        title: title of the figure.

    Raises:
        LensFVError: unequal numbers of classes and items.
    """
    if len(classes) != len(matrix.names):
        raise LensFVError(f"draw similarities of {len(matrix.names)} items: {len(classes)} classes; give one for each")
    order = by_class(classes)
    names, n = [plain(matrix.names[i]) for i in order], len(order)
    kinds = [plain(classes[i] or "no class") for i in order]
    values = [
        [None if i == j or (value := float(matrix.values[i, j])) != value else value for j in order] for i in order
    ]  # NaN: not compared
    hover = [
        [f"{a} ({c}), {b} ({d}): " + ("not compared" if v is None else f"{v:+.3f}") for b, d, v in zip(names, kinds, row)]
        for a, c, row in zip(names, kinds, values)
    ]
    heat = go.Heatmap(z=values, text=hover, hovertemplate="%{text}<extra></extra>", coloraxis="coloraxis", hoverongaps=False)
    furthest = max((abs(v) for row in values for v in row if v is not None), default=1.0) or 1.0
    return figure(
        [heat],
        title=title,
        height=max(260, min(14 * n, 900)) + 160,
        coloraxis={"cmin": -furthest, "cmax": furthest, "colorbar": {"title": {"text": "similarity", "side": "top"}}},
        **class_axes(names, kinds),
    )


def by_class(classes: Sequence[str]) -> list[int]:
    """Indices of the items sorted by class, with classes in order of first occurrence."""
    first = list(dict.fromkeys(classes))
    return sorted(range(len(classes)), key=lambda i: first.index(classes[i]))


def class_axes(names: Sequence[str], classes: Sequence[str]) -> dict[str, Any]:
    """Axes of a square of items sorted by class, with lines between classes."""
    n = len(names)
    sizes = [(kind, len(list(group))) for kind, group in groupby(classes)]
    ends = [sum(size for _, size in sizes[: i + 1]) for i in range(len(sizes))]
    if n <= 60:
        ticks = {"tickvals": list(range(n)), "ticktext": list(names)}
    else:
        ticks = {"tickvals": [end - (size + 1) / 2 for end, (_, size) in zip(ends, sizes)], "ticktext": [k for k, _ in sizes]}
    line = {"type": "line", "line": {"color": GREY, "width": 1}, "layer": "above"}
    across = [line | {"x0": end - 0.5, "x1": end - 0.5, "y0": -0.5, "y1": n - 0.5} for end in ends[:-1]]
    down = [line | {"y0": end - 0.5, "y1": end - 0.5, "x0": -0.5, "x1": n - 0.5} for end in ends[:-1]]
    axis = {"showgrid": False, "zeroline": False, "range": [-0.5, n - 0.5]} | ticks
    return {"xaxis": axis | {"tickangle": -60}, "yaxis": axis | {"range": [n - 0.5, -0.5]}, "shapes": across + down}
