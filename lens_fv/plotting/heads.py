"""Figures of head rankings."""

import plotly.graph_objects as go

from lens_fv.core.choices import Count, checked
from lens_fv.heads import HeadRanking
from lens_fv.plotting.theme import NEGATIVE, POSITIVE, counting_axis, error_bars, figure

_UNITS = {"prob": "probability", "logprob": "log-probability (nats)", "logit": "logit", "logit_diff": "logit difference"}


def plot_heads(ranking: HeadRanking) -> go.Figure:
    """Plot every head's mean indirect effect: layers across, heads down, on a diverging scale around zero."""
    mean = ranking.mean
    low, high = (end.tolist() for end in ranking.interval())
    layers, heads = mean.shape
    furthest = float(mean.abs().max()) or 1.0
    cell = max(8, min(38, 720 // layers))
    hover = [
        [f"head {i}.{j}: effect {mean[i, j]:+.3f} [{low[i][j]:+.3f}, {high[i][j]:+.3f}]" for i in range(layers)]
        for j in range(heads)
    ]
    gap = 1 if cell > 12 else 0
    cells = go.Heatmap(
        z=mean.T.tolist(),
        x=list(range(layers)),
        y=list(range(heads)),
        text=hover,
        hovertemplate="%{text}<extra></extra>",
        coloraxis="coloraxis",
        xgap=gap,
        ygap=gap,
    )
    bar = {"title": {"text": f"mean change in<br>{_UNITS[ranking.metric]}", "side": "top"}, "len": 1.0}
    return figure(
        [cells],
        title=f"Indirect effect of each head: {_about(ranking)}",
        height=max(150, heads * cell) + 130,
        coloraxis={"cmin": -furthest, "cmax": furthest, "colorbar": bar},
        xaxis=counting_axis("layer", layers) | {"zeroline": False},
        yaxis=counting_axis("head", heads) | {"zeroline": False, "autorange": "reversed"},
    )


@checked
def plot_top_heads(ranking: HeadRanking, n: Count = 10) -> go.Figure:
    """Plot the `n` heads of largest mean indirect effect with bootstrap intervals, the largest on top.

    Raises:
        LensFVError: `n` is less than one.
    """
    best = ranking.top(n)
    names = [head.name for head in best]
    bars = go.Bar(
        x=[head.effect.mean for head in best],
        y=names,
        orientation="h",
        width=0.7,
        marker={"color": [POSITIVE if head.effect.mean >= 0 else NEGATIVE for head in best]},
        error_x=error_bars([head.effect for head in best]),
        text=[f"head {h.name}: effect {h.effect:+.3f}" for h in best],
        textposition="none",
        hovertemplate="%{text}<extra></extra>",
    )
    return figure(
        [bars],
        title=f"Top heads: {_about(ranking)}",
        height=24 * len(best) + 130,
        xaxis={"title": {"text": f"mean change in {_UNITS[ranking.metric]}, 95 % interval"}, "zeroline": True},
        # A category, because "20.5" would be read as a number and the bars sorted by it.
        yaxis={"title": {"text": "head (layer.head)"}, "type": "category", "categoryorder": "array", "categoryarray": names}
        | {"autorange": "reversed", "dtick": 1, "showgrid": False},
    )


def _about(ranking: HeadRanking) -> str:
    where = ranking.provenance
    return f"{where.task}, {where.model}, {len(ranking.effects)} trials"
