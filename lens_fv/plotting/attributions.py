"""Figures that compare cheap head scores with exact effects."""

import plotly.graph_objects as go

from lens_fv.core.choices import Count, checked
from lens_fv.errors import LensFVError
from lens_fv.heads.comparison import SCORE_NAMES, HeadComparison, Score
from lens_fv.plotting.heads import _UNITS
from lens_fv.plotting.theme import GREY, PALETTE, figure

_PANELS: tuple[tuple[Score, str, str, list[float]], ...] = (
    ("attribution", "x", "y", [0, 0.47]),
    ("direct", "x2", "y2", [0.53, 1]),
)


@checked
def plot_attributions(comparison: HeadComparison, *, top: Count = 10) -> go.Figure:
    """Plot every head's exact effect against attribution patching (left) and direct logit attribution (right).

    The `top` heads of largest exact effect are highlighted, the first three by name. On the left, both axes have the same unit,
    and a dotted line marks exact agreement.

    Raises:
        LensFVError: `top` is not between 1 and the number of heads.
    """
    exact = comparison.mean("exact")
    layers, heads = exact.shape
    if not 1 <= top <= exact.numel():
        raise LensFVError(f"mark the top {top} heads: take between 1 and all {exact.numel()} of them")
    order = exact.flatten().argsort(descending=True, stable=True).tolist()
    names = [f"{layer}.{head}" for layer in range(layers) for head in range(heads)]
    y, unit = exact.flatten().tolist(), _UNITS[comparison.metric]
    x_titles = {"attribution": f"first-order change in {unit}", "direct": "change in the answer's logit, directly"}
    traces, axes, captions = [], {}, []
    for score, x_axis, y_axis, domain in _PANELS:
        x = comparison.mean(score).flatten().tolist()
        at = {"xaxis": x_axis, "yaxis": y_axis}
        if score == "attribution":
            ends = [min(*x, *y), max(*x, *y)]
            line = {"color": GREY, "width": 1, "dash": "dot"}
            traces.append(go.Scatter(x=ends, y=ends, **at, mode="lines", line=line, hoverinfo="skip", showlegend=False))
        for label, these, colour in (
            ("other heads", order[top:], GREY),
            (f"top {top} by exact effect", order[:top], PALETTE[1]),
        ):
            text = [names[i] if colour != GREY and rank < 3 else "" for rank, i in enumerate(these)]
            hover = [f"head {names[i]}: exact {y[i]:+.4f}, {SCORE_NAMES[score]} {x[i]:+.4f}" for i in these]
            traces.append(
                go.Scatter(
                    x=[x[i] for i in these],
                    y=[y[i] for i in these],
                    **at,
                    mode="markers+text",
                    marker={"color": colour, "size": 7, "opacity": 0.5 if colour == GREY else 1},
                    text=text,
                    textposition="top center",
                    cliponaxis=False,
                    hovertext=hover,
                    hovertemplate="%{hovertext}<extra></extra>",
                    name=label,
                    legendgroup=label,
                    showlegend=score == "attribution",
                )
            )
        rho = comparison.correlation(score)
        caption = f"{SCORE_NAMES[score]}: Spearman {rho:+.2f}"
        place = {"x": domain[0], "y": 1, "xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom"}
        captions.append({"text": caption, "showarrow": False, **place})
        axes["xaxis" + x_axis[1:]] = {"domain": domain, "anchor": y_axis, "title": {"text": x_titles[score]}, "nticks": 6}
    where = comparison.provenance
    return figure(
        traces,
        title=f"Exact effect of each head and two guesses: {where.task}, {where.model}, {len(comparison.exact)} trials",
        height=470,
        **axes,
        yaxis={"title": {"text": f"exact change in {unit}"}},
        yaxis2={"anchor": "x2", "matches": "y", "showticklabels": False},
        annotations=captions,
        margin={"t": 76},
    )
