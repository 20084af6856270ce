"""Figures of head rankings, of effects by token class, and of cheap scores compared with exact effects."""

from collections.abc import Sequence

import plotly.graph_objects as go

from lens_fv.core.artefact import Provenance
from lens_fv.core.choices import Count, checked
from lens_fv.errors import LensFVError
from lens_fv.heads import HeadRanking
from lens_fv.heads.classes import ClassEffects
from lens_fv.heads.comparison import SCORE_NAMES, HeadComparison, Score
from lens_fv.plotting.elements import (
    CATEGORY,
    counting_axis,
    diverging_colours,
    error_bars,
    heatmap,
    identity_line,
    panel_axes,
    panel_layout,
    points,
)
from lens_fv.plotting.theme import GREY, NEGATIVE, PALETTE, POSITIVE, figure, plain

_UNITS = {"prob": "probability", "logprob": "log-probability (nats)", "logit": "logit", "logit_diff": "logit difference"}


@checked
def plot_heads(ranking: HeadRanking) -> go.Figure:
    """Plot every head's mean indirect effect: layers across, heads down, on a diverging scale around zero.

    Example:
        >>> lens_fv.plotting.plot_heads(ranking).layout.title.text
        'Indirect effect of each head: toy, tiny, 3 trials'
    """
    mean = ranking.mean
    low, high = ranking.interval()
    layers, heads = mean.shape
    cell_height = max(8, min(38, 720 // layers))
    gap = 1 if cell_height > 12 else 0
    hover = [
        [f"head {i}.{j}: effect {mean[i, j]:+.3f} [{low[i, j]:+.3f}, {high[i, j]:+.3f}]" for i in range(layers)]
        for j in range(heads)
    ]
    values = mean.T.tolist()
    return figure(
        [heatmap(values, hover, x=list(range(layers)), y=list(range(heads)), xgap=gap, ygap=gap)],
        title=f"Indirect effect of each head: {_about(ranking.provenance, len(ranking.effects))}",
        height=max(150, heads * cell_height) + 130,
        coloraxis=diverging_colours(values, f"mean change in<br>{_UNITS[ranking.metric]}"),
        xaxis=counting_axis("layer", layers),
        yaxis=counting_axis("head", heads) | {"autorange": "reversed"},
    )


@checked
def plot_top_heads(ranking: HeadRanking, n: Count = 10) -> go.Figure:
    """Plot the `n` heads of largest mean indirect effect with bootstrap intervals, the largest on top.

    Raises:
        LensFVError: `n` is less than one.

    Example:
        >>> lens_fv.plotting.plot_top_heads(ranking, n=3).layout.title.text
        'Top heads: toy, tiny, 3 trials'
    """
    best = ranking.top(n)
    names = [head.name for head in best]
    trace = go.Bar(
        x=[head.effect.mean for head in best],
        y=names,
        orientation="h",
        width=0.7,
        marker={"color": [POSITIVE if head.effect.mean >= 0 else NEGATIVE for head in best]},
        error_x=error_bars([head.effect for head in best]),
        text=[f"head {head.name}: effect {head.effect:+.3f}" for head in best],
        textposition="none",
        hovertemplate="%{text}<extra></extra>",
    )
    return figure(
        [trace],
        title=f"Top heads: {_about(ranking.provenance, len(ranking.effects))}",
        height=24 * len(best) + 130,
        xaxis={"title": {"text": f"mean change in {_UNITS[ranking.metric]}, 95 % interval"}, "zeroline": True},
        # A category, because "20.5" would be read as a number and the bars sorted by it.
        yaxis=CATEGORY
        | {"title": {"text": "head (layer.head)"}, "categoryorder": "array", "categoryarray": names}
        | {"autorange": "reversed", "dtick": 1},
    )


@checked
def plot_classes(effects: ClassEffects) -> go.Figure:
    """Plot the mean indirect effect of each layer's strongest head at each token class: layers across, classes down.

    The strongest head is the one with the largest absolute effect; the hover text names it.

    Example:
        >>> effects = lens_fv.heads.class_effects(model, task, n_shots=2, n_clean=4, n_trials=2)
        >>> lens_fv.plotting.plot_classes(effects).layout.title.text
        'Strongest head of each layer by token class: toy, tiny, 2 trials'
    """
    strongest = effects.strongest().T.tolist()
    cells = [[(layer, head, k) for layer, head in enumerate(heads)] for k, heads in enumerate(strongest)]
    names = [str(layer) for layer in range(effects.effects.shape[1])]
    return _class_heatmap(effects, cells, names, title="Strongest head of each layer by token class", axis="layer")


@checked
def plot_heads_by_class(effects: ClassEffects, n: Count = 10) -> go.Figure:
    """Plot the `n` heads of largest mean indirect effect at any token class: heads across, the best first; classes down.

    Raises:
        LensFVError: `n` is less than one.

    Example:
        >>> effects = lens_fv.heads.class_effects(model, task, n_shots=2, n_clean=4, n_trials=2)
        >>> lens_fv.plotting.plot_heads_by_class(effects, n=3).layout.title.text
        'Top heads by token class: toy, tiny, 2 trials'
    """
    best = list(dict.fromkeys((e.layer, e.head) for e in effects.top()))[:n]
    cells = [[(*head, k) for head in best] for k in range(len(effects.classes))]
    names = [f"{layer}.{head}" for layer, head in best]
    return _class_heatmap(effects, cells, names, title="Top heads by token class", axis="head (layer.head)")


def _class_heatmap(
    effects: ClassEffects, cells: Sequence[Sequence[tuple[int, int, int]]], columns: list[str], *, title: str, axis: str
) -> go.Figure:
    """Draw mean effects of (layer, head, class) cells, one row per class, on a diverging scale around zero."""
    mean, (low, high) = effects.mean, effects.interval()
    names = [plain(name.replace("_", " ")) for name in effects.classes]
    values = [[float(mean[cell]) for cell in row] for row in cells]
    hover = [
        [f"head {c[0]}.{c[1]}, {names[c[2]]}: effect {mean[c]:+.3f} [{low[c]:+.3f}, {high[c]:+.3f}]" for c in row]
        for row in cells
    ]
    gap = 1 if len(columns) <= 60 else 0
    return figure(
        [heatmap(values, hover, x=columns, y=names, xgap=gap, ygap=gap)],
        title=f"{title}: {_about(effects.provenance, len(effects.effects))}",
        height=max(150, 26 * len(names)) + 130,
        coloraxis=diverging_colours(values, f"mean change in<br>{_UNITS[effects.metric]}"),
        # Categories, because "20.5" would be read as a number and the heads sorted by it.
        xaxis=CATEGORY | {"tickangle": 0, "title": {"text": axis}},
        yaxis=CATEGORY | {"tickangle": 0, "autorange": "reversed"},
    )


@checked
def plot_attributions(comparison: HeadComparison, *, top: Count = 10) -> go.Figure:
    """Plot every head's exact effect against attribution patching (left) and direct logit attribution (right).

    The `top` heads of largest exact effect are highlighted, the first three by name. On the left, both axes have the same unit,
    and a dotted line marks exact agreement.

    Raises:
        LensFVError: `top` is not between 1 and the number of heads.

    Example:
        >>> comparison = lens_fv.heads.compare_attributions(model, task, ranking)
        >>> lens_fv.plotting.plot_attributions(comparison).layout.title.text
        'Exact effect of each head against two approximations: toy, tiny, 3 trials'
    """
    exact = comparison.mean("exact")
    if top > exact.numel():
        raise LensFVError(f"mark the top {top} heads: take between 1 and all {exact.numel()} of them")
    order = exact.flatten().argsort(descending=True, stable=True).tolist()
    names = [f"{layer}.{head}" for layer in range(exact.shape[0]) for head in range(exact.shape[1])]
    y, unit = exact.flatten().tolist(), _UNITS[comparison.metric]
    labelled = order[: min(top, 3)]
    groups = {"other heads": (order[top:], GREY, 0.5), f"top {top} by exact effect": (order[:top], PALETTE[1], 1.0)}
    panels: dict[Score, str] = {
        "attribution": f"first-order change in {unit}",
        "direct": "direct contribution to the answer's logit",
    }
    traces: list[go.Scatter] = []
    for score, axes in zip(panels, panel_axes(2)):
        first = score == "attribution"
        x = comparison.mean(score).flatten().tolist()
        if first:
            traces.append(identity_line(min(*x, *y), max(*x, *y), **axes))
        for label, (indices, colour, opacity) in groups.items():
            traces.append(
                points(
                    [x[i] for i in indices],
                    [y[i] for i in indices],
                    colour,
                    [f"head {names[i]}: exact {y[i]:+.4f}, {SCORE_NAMES[score]} {x[i]:+.4f}" for i in indices],
                    **axes,
                    mode="markers+text",
                    marker={"opacity": opacity},
                    text=[names[i] if i in labelled else "" for i in indices],
                    textposition="top center",
                    cliponaxis=False,
                    name=label,
                    legendgroup=label,
                    showlegend=first,
                )
            )
    captions = [f"{SCORE_NAMES[score]}: Spearman {comparison.correlation(score):+.2f}" for score in panels]
    layout = panel_layout(captions, {"nticks": 6}, {"title": {"text": f"exact change in {unit}"}})
    for axis, title in zip(("xaxis", "xaxis2"), panels.values()):
        layout[axis]["title"] = {"text": title}
    about = _about(comparison.provenance, len(comparison.exact))
    return figure(traces, title=f"Exact effect of each head against two approximations: {about}", height=470, **layout)


def _about(provenance: Provenance, n_trials: int) -> str:
    return f"{provenance.task}, {provenance.model}, {n_trials} trials"
