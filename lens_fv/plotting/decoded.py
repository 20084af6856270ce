"""Tables of decoded vectors."""

from collections.abc import Mapping

import plotly.graph_objects as go

from lens_fv.errors import LensFVError
from lens_fv.plotting.theme import figure, plain
from lens_fv.vectors import Decoded

_SEEN = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"}


def plot_decoded(decoded: Mapping[str, Decoded]) -> go.Figure:
    """Tabulate the likeliest tokens of each vector with probabilities, and the three best ranks of queried words.

    Spaces are shown as ␣, other invisible characters as escapes.

    Raises:
        LensFVError: nothing to draw.
    """
    if not any(found.tokens for found in decoded.values()):
        raise LensFVError("draw decoded words: no vector with tokens was given; decode at least one with k of 1 or more")
    depth = max(len(found.tokens) for found in decoded.values())
    columns = [[f"<b>{plain(name)}</b>" for name in decoded]]
    for i in range(depth):
        columns.append([_cell(*found.tokens[i]) if i < len(found.tokens) else "" for found in decoded.values()])
    header = ["vector", *(str(i + 1) for i in range(depth))]
    widths = [2.0, *[1.1] * depth]
    if any(found.ranks for found in decoded.values()):
        columns.append([_best(found) for found in decoded.values()])
        sizes = {found.vocabulary for found in decoded.values()}
        header.append("ranks of words" + (f", of {sizes.pop():,}" if len(sizes) == 1 else ""))
        widths.append(2.0)
    row = 20 * max(2, *(cell.count("<br>") + 1 for column in columns for cell in column)) + 6
    table = go.Table(
        columnwidth=widths,
        header={"values": [f"<b>{title}</b>" for title in header], "align": "left", "height": 44},
        cells={"values": columns, "align": "left", "height": row},
    )
    margin = {"l": 4, "r": 4, "b": 8}
    return figure([table], title="Likeliest tokens of each vector", height=row * len(decoded) + 130, margin=margin)


def visible(token: str) -> str:
    """Make a token's spaces, line breaks and other invisible characters visible."""
    shown = "".join(_SEEN.get(c) or (c if c.isprintable() else c.encode("unicode_escape").decode()) for c in token)
    return shown or "(empty)"


def _cell(token: str, probability: float) -> str:
    return f"{plain(visible(token))}<br>{probability:.3f}" if probability >= 0.0005 else f"{plain(visible(token))}<br>&lt;0.001"


def _best(found: Decoded, n: int = 3) -> str:
    best = sorted(found.ranks.items(), key=lambda item: item[1])[:n]
    return "<br>".join(f"{plain(visible(word))}: {rank:,}" for word, rank in best)
