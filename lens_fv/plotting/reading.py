"""Figures that compare decoded vectors before and after tuning."""

import plotly.graph_objects as go

from lens_fv.core.choices import checked
from lens_fv.errors import LensFVError
from lens_fv.evaluation import DecodingEvaluation
from lens_fv.evaluation.ranks import Targets
from lens_fv.plotting.theme import GREY, PALETTE, figure, plain

_OF = {"words": "relation words", "answers": "test answers"}


@checked
def plot_decoding(study: DecodingEvaluation, before: str, after: str, *, of: Targets = "words") -> go.Figure:
    """Plot the reciprocal rank of each relation's best word before (across) and after (up), on logarithmic axes.

    Each point is a relation; above the dotted line, the word ranks better after. The caption gives the mean difference, its
    bootstrap interval over relations and Wilcoxon's p.

    Args:
        study: evaluation with both conditions.
        before: name of the first condition.
        after: name of the second condition.
        of: "words" (that name the relation) or test "answers".

    Raises:
        LensFVError: no such condition, or no relation with such words.
    """
    gain = study.difference(before, after, "best_reciprocal", of=of)
    values = study.values("best_reciprocal", of=of)[:, [study.conditions.index(c) for c in (before, after)]]
    rows = [(name, x, y) for name, (x, y) in zip(study.relations, values.tolist(), strict=True) if x == x]
    if before == after:
        raise LensFVError(f"draw {before} vectors against themselves: name two conditions of {', '.join(study.conditions)}")
    # Powers of ten, down to the first one below every point.
    low = -len(str(round(1 / min(min(x, y) for _, x, y in rows)) - 1))
    ticks = {
        "tickvals": [10.0**i for i in range(low, 1)],
        "ticktext": ["1", *(f"1/{10**i:,}" for i in range(1, 1 - low))][::-1],
    }
    axis = {"type": "log", "range": [low - 0.05, 0.1], **ticks}
    line = {"color": GREY, "width": 1, "dash": "dot"}
    hover = [f"{plain(name)}: rank {1 / x:,.0f} before, {1 / y:,.0f} after" for name, x, y in rows]
    caption = f"mean difference {gain.value:+.3f}, p = {gain.p_value:.2g}, {gain.value.n} relations"
    place = {"x": 0, "y": 1, "xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom"}
    return figure(
        [
            go.Scatter(x=[10.0**low, 1], y=[10.0**low, 1], mode="lines", line=line, hoverinfo="skip", showlegend=False),
            go.Scatter(
                x=[x for _, x, _ in rows],
                y=[y for _, _, y in rows],
                mode="markers",
                marker={"color": PALETTE[0], "size": 8, "opacity": 0.7},
                cliponaxis=False,
                hovertext=hover,
                hovertemplate="%{hovertext}<extra></extra>",
                showlegend=False,
            ),
        ],
        title=f"Reciprocal rank of the best of each relation's {_OF[of]}: {study.provenance.model}",
        height=470,
        xaxis={"title": {"text": f"1 / rank, {plain(before)}"}, **axis},
        yaxis={"title": {"text": f"1 / rank, {plain(after)}"}, **axis},
        annotations=[{"text": caption, "showarrow": False, **place}],
        margin={"t": 76},
    )
