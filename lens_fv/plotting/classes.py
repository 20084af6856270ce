"""Figures of head effects by token class."""

from collections.abc import Sequence

import plotly.graph_objects as go

from lens_fv.core.choices import Count, checked
from lens_fv.heads.classes import ClassEffects
from lens_fv.plotting.theme import figure, plain

_UNITS = {"prob": "probability", "logprob": "log-probability<br>(nats)"}


def plot_classes(effects: ClassEffects) -> go.Figure:
    """Plot the mean indirect effect of each layer's strongest head at each token class: layers across, classes down.

    The strongest head is the one with the largest absolute effect; the hover text names it.
    """
    layers = range(effects.effects.shape[1])
    cells = [[(layer, int(head)) for layer, head in zip(layers, heads)] for heads in effects.strongest().T.tolist()]
    return _heatmap(
        effects,
        cells=[[(*head, k) for head in row] for k, row in enumerate(cells)],
        across=[str(layer) for layer in layers],
        title="Strongest head of each layer by token class",
        axis="layer",
    )


@checked
def plot_heads_by_class(effects: ClassEffects, n: Count = 10) -> go.Figure:
    """Plot the `n` heads of largest mean indirect effect at any token class: heads across, the best first; classes down.

    Raises:
        LensFVError: `n` is less than one.
    """
    best = list(dict.fromkeys((e.layer, e.head) for e in effects.top()))[:n]
    return _heatmap(
        effects,
        cells=[[(*head, k) for head in best] for k in range(len(effects.classes))],
        across=[f"{layer}.{head}" for layer, head in best],
        title="Top heads by token class",
        axis="head (layer.head)",
    )


def _heatmap(
    effects: ClassEffects, *, cells: Sequence[Sequence[tuple[int, int, int]]], across: list[str], title: str, axis: str
) -> go.Figure:
    """Draw mean effects of (layer, head, class) cells, one row per class, on a diverging scale around zero."""
    mean, (low, high) = effects.mean, effects.interval()
    names = [plain(name.replace("_", " ")) for name in effects.classes]
    values = [[float(mean[cell]) for cell in row] for row in cells]
    hover = [
        [f"head {c[0]}.{c[1]}, {names[c[2]]}: effect {mean[c]:+.3f} [{low[c]:+.3f}, {high[c]:+.3f}]" for c in row]
        for row in cells
    ]
    furthest = max(abs(value) for row in values for value in row) or 1.0
    gap = 1 if len(across) <= 60 else 0
    heat = go.Heatmap(
        z=values,
        x=across,
        y=names,
        text=hover,
        hovertemplate="%{text}<extra></extra>",
        coloraxis="coloraxis",
        xgap=gap,
        ygap=gap,
    )
    about = f"{effects.provenance.task}, {effects.provenance.model}, {len(effects.effects)} trials"
    bar = {"title": {"text": f"mean change in<br>{_UNITS[effects.metric]}", "side": "top"}}
    category = {"type": "category", "showgrid": False, "tickangle": 0}
    return figure(
        [heat],
        title=f"{title}: {about}",
        height=max(150, 26 * len(names)) + 130,
        coloraxis={"cmin": -furthest, "cmax": furthest, "colorbar": bar},
        # Categories, because "20.5" would be read as a number and the heads sorted by it.
        xaxis=category | {"title": {"text": axis}},
        yaxis=category | {"autorange": "reversed"},
    )
