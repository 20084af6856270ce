"""Display of results: one screen of text in a terminal, a small card in a notebook."""

from html import escape

from torch import Tensor


class Displayed:
    """Base of results that are shown by their summary."""

    def summary(self) -> dict[str, str]:
        """The key facts as labels and values."""
        raise NotImplementedError

    def heatmap_data(self) -> Tensor | None:
        """Values for a (layers, heads) heat map, or None."""
        return None

    def __repr__(self) -> str:
        facts = self.summary()
        width = max(map(len, facts), default=0)
        return "\n".join([type(self).__name__, *(f"  {label:<{width}}  {value}" for label, value in facts.items())])

    def _repr_html_(self) -> str:
        """A table; a heat map is centred on zero: red above, blue below."""
        title, grid = type(self).__name__, self.heatmap_data()
        rows = "".join(
            f"<tr><th style='text-align:left'>{escape(label)}</th><td style='text-align:left'>{escape(value)}</td></tr>"
            for label, value in self.summary().items()
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
