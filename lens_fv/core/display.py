"""Display of artefacts: one screen of text in a terminal, a small card in a notebook."""

from collections.abc import Mapping
from html import escape

from torch import Tensor


def summary_text(title: str, facts: Mapping[str, str]) -> str:
    """A title, then one line per label and value."""
    width = max(map(len, facts), default=0)
    return "\n".join([title, *(f"  {label:<{width}}  {value}" for label, value in facts.items())])


def summary_html(title: str, facts: Mapping[str, str], grid: Tensor | None = None) -> str:
    """An HTML table; `grid`, (layers, heads), becomes a small heat map centred on zero: red above, blue below."""
    rows = "".join(
        f"<tr><th style='text-align:left'>{escape(label)}</th><td style='text-align:left'>{escape(value)}</td></tr>"
        for label, value in facts.items()
    )
    picture = "" if grid is None else f"<div>{_heat_map(grid)}</div>"
    return f"<div><b>{escape(title)}</b><div style='display:flex;gap:1em'><table>{rows}</table>{picture}</div></div>"


def _heat_map(grid: Tensor, cell: int = 6) -> str:
    top = float(grid.abs().max()) or 1.0
    layers, heads = grid.shape
    cells = []
    for layer, row in enumerate(grid.tolist()):
        for head, value in enumerate(row):
            colour = "178,24,43" if value > 0 else "33,102,172"
            cells.append(
                f"<rect x='{layer * cell}' y='{head * cell}' width='{cell}' height='{cell}' "
                f"fill='rgb({colour})' fill-opacity='{abs(value) / top:.2f}'><title>{layer}.{head}: {value:.3f}</title></rect>"
            )
    size = f"width='{layers * cell}' height='{heads * cell}'"
    return (
        f"<svg {size} style='border:1px solid #8888' role='img' aria-label='layers across, heads down'>{''.join(cells)}</svg>"
    )
