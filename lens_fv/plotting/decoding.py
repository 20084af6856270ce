"""Tables of decoded vectors, and their comparison before and after tuning."""

from collections.abc import Mapping

import plotly.graph_objects as go

from lens_fv.core.choices import checked
from lens_fv.errors import LensFVError
from lens_fv.evaluation import DecodingEvaluation
from lens_fv.evaluation.ranks import Targets
from lens_fv.plotting.elements import caption, identity_line, points
from lens_fv.plotting.theme import PALETTE, figure, plain
from lens_fv.vectors import Decoded

_SYMBOLS = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"}
_TARGETS = {"words": "relation words", "answers": "test answers"}


@checked
def plot_decoded(decoded: Mapping[str, Decoded]) -> go.Figure:
    """Tabulate the likeliest tokens of each vector with probabilities, and the three best ranks of queried words.

    Spaces are shown as ␣, other invisible characters as escapes.

    Raises:
        LensFVError: nothing to draw.

    Example:
        >>> decoded = lens_fv.decode(model, vector, words=['letter'])
        >>> lens_fv.plotting.plot_decoded({task.name: decoded}).layout.title.text
        'Likeliest tokens of each vector'
    """
    depth = max((len(vector.tokens) for vector in decoded.values()), default=0)
    if not depth:
        raise LensFVError("draw decoded words: no vector with tokens was given; decode at least one with k of 1 or more")
    header = ["vector", *(str(i + 1) for i in range(depth))]
    rows: list[list[str]] = []
    for name, vector in decoded.items():
        cells = [f"{plain(visible(token))}<br>{_share(probability)}" for token, probability in vector.tokens]
        rows.append([f"<b>{plain(name)}</b>", *cells, *[""] * (depth - len(cells))])
    widths = [2.0, *[1.1] * depth]
    if any(vector.ranks for vector in decoded.values()):
        for row, vector in zip(rows, decoded.values()):
            best = sorted(vector.ranks.items(), key=lambda item: item[1])[:3]
            row.append("<br>".join(f"{plain(visible(word))}: {rank:,}" for word, rank in best))
        sizes = {vector.vocabulary for vector in decoded.values()}
        header.append("ranks of words" + (f", of {sizes.pop():,}" if len(sizes) == 1 else ""))
        widths.append(2.0)
    row_height = 20 * max(2, *(cell.count("<br>") + 1 for row in rows for cell in row)) + 6
    table = go.Table(
        columnwidth=widths,
        header={"values": [f"<b>{title}</b>" for title in header], "align": "left", "height": 44},
        cells={"values": [list(column) for column in zip(*rows)], "align": "left", "height": row_height},
    )
    margin = {"l": 4, "r": 4, "b": 8}
    return figure([table], title="Likeliest tokens of each vector", height=row_height * len(rows) + 130, margin=margin)


def visible(token: str) -> str:
    """Make a token's spaces, line breaks and other invisible characters visible."""
    text = "".join(_SYMBOLS.get(c) or (c if c.isprintable() else c.encode("unicode_escape").decode()) for c in token)
    return text or "(empty)"


def _share(probability: float) -> str:
    return f"{probability:.3f}" if probability >= 0.0005 else "&lt;0.001"


@checked
def plot_decoding(study: DecodingEvaluation, before: str, after: str, *, of: Targets = "words") -> go.Figure:
    """Plot the reciprocal rank of each relation's best word before (across) and after (up), on logarithmic axes.

    Each point is a relation; above the dotted line, the word ranks better after. The caption gives the mean difference, its
    bootstrap interval over relations and Wilcoxon's p.

    Args:
        study: Evaluation with both conditions.
        before: Name of the first condition.
        after: Name of the second condition.
        of: "words" (that name the relation) or test "answers".

    Raises:
        LensFVError: no such condition, or no relation with such words.

    Example:
        >>> conditions = {'random': {task.name: lens_fv.vectors.random_like(vector)}, 'tuned': {task.name: vector}}
        >>> decoding = lens_fv.evaluation.evaluate_decoding(model, [task], conditions)
        >>> lens_fv.plotting.plot_decoding(decoding, 'random', 'tuned').layout.title.text
        "Reciprocal rank of the best of each relation's relation words: tiny"
    """
    gain = study.difference(before, after, "best_reciprocal", of=of)
    if before == after:
        raise LensFVError(f"draw {before} vectors against themselves: name two conditions of {', '.join(study.conditions)}")
    values = study.values("best_reciprocal", of=of)[:, [study.conditions.index(c) for c in (before, after)]]
    rows = [(name, x, y) for name, (x, y) in zip(study.relations, values.tolist(), strict=True) if x == x]
    # Powers of ten, down to the first one below every point.
    low = -len(str(round(1 / min(min(x, y) for _, x, y in rows)) - 1))
    ticks = {
        "tickvals": [10.0**i for i in range(low, 1)],
        "ticktext": ["1", *(f"1/{10**i:,}" for i in range(1, 1 - low))][::-1],
    }
    axis = {"type": "log", "range": [low - 0.05, 0.1], **ticks}
    relations = points(
        [x for _, x, _ in rows],
        [y for _, _, y in rows],
        PALETTE[0],
        [f"{plain(name)}: rank {1 / x:,.0f} before, {1 / y:,.0f} after" for name, x, y in rows],
        marker={"size": 8, "opacity": 0.7},
        cliponaxis=False,
        showlegend=False,
    )
    return figure(
        [identity_line(10.0**low, 1), relations],
        title=f"Reciprocal rank of the best of each relation's {_TARGETS[of]}: {study.provenance.model}",
        height=470,
        xaxis={"title": {"text": f"1 / rank, {plain(before)}"}, **axis},
        yaxis={"title": {"text": f"1 / rank, {plain(after)}"}, **axis},
        annotations=[caption(f"mean difference {gain.value:+.3f}, p = {gain.p_value:.2g}, {gain.value.n} relations")],
        margin={"t": 76},
    )
