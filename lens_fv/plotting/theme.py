"""Themes of figures: one plotly template per theme, selected for a block of code and never set globally.

All differences between themes are in the template, so a figure changes its theme by changing its template.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from html import escape
from typing import Any, Literal

import plotly.graph_objects as go

from lens_fv.core.choices import checked

ThemeName = Literal["light", "dark", "print"]

# Colours of Okabe and Ito, distinguishable with any colour vision; each is readable on white and on black.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8c7ae6")
GREY = "#8b9299"
POSITIVE, NEGATIVE = "#d6604d", "#4393c3"
CLEAR = "rgba(0,0,0,0)"

_INK = {"light": "#1f2328", "dark": "#e6e8eb", "print": "#000000"}
_RULE = {"light": "#d8dce1", "dark": "#3a4048", "print": "#cccccc"}
_ON_WHITE = ["#2166ac", "#92c5de", "#f7f7f7", "#f4a582", "#b2182b"]
_ON_BLACK = ["#8ec9ff", "#2b6aa5", "#22272d", "#ad4636", "#ffab8f"]
_current: ContextVar[ThemeName] = ContextVar("lens_fv_theme", default="light")


@checked
@contextmanager
def theme(name: ThemeName) -> Iterator[None]:
    """Draw figures made inside the block for a light page, a dark page or print.

    "print" has black text, a fixed width of 720 pixels, larger fonts, and no title because a paper has captions.

    Raises:
        LensFVError: no such theme.

    Example:
        >>> with lens_fv.plotting.theme('print'):
        ...     figure = lens_fv.plotting.plot_heads(ranking)
    """
    token = _current.set(name)
    try:
        yield
    finally:
        _current.reset(token)


def template(name: ThemeName | None = None) -> go.layout.Template:
    """Return the plotly template of a theme, by default of the current one."""
    name = name or _current.get()
    ink, rule, size = _INK[name], _RULE[name], 15 if name == "print" else 13
    axis = {
        "color": ink,
        "gridcolor": rule,
        "linecolor": rule,
        "tickcolor": rule,
        "zerolinecolor": rule,
        "zerolinewidth": 1,
        "automargin": True,
        "ticks": "outside",
        "ticklen": 4,
        "title": {"standoff": 10, "font": {"size": size}},
        "tickfont": {"size": size - 1},
    }
    steps = _ON_BLACK if name == "dark" else _ON_WHITE
    bars = {
        "title": {"font": {"size": size}},
        "outlinewidth": 0,
        "thickness": 14,
        "tickcolor": rule,
        "ticks": "outside",
        "ticklen": 4,
    }
    error = {"color": ink, "thickness": 1.2, "width": 3}
    cells = {"fill": {"color": CLEAR}, "line": {"color": rule, "width": 1}, "font": {"color": ink, "size": size - 1}}
    return go.layout.Template(
        layout={
            "font": {"family": "Helvetica, Arial, 'Liberation Sans', sans-serif", "size": size, "color": ink},
            "title": {"x": 0, "xref": "paper", "xanchor": "left", "y": 1, "yanchor": "top", "pad": {"t": 14, "l": 2}}
            | {"font": {"size": size + 2}},
            "paper_bgcolor": CLEAR,
            "plot_bgcolor": CLEAR,
            "colorway": PALETTE,
            "coloraxis": {"colorscale": [[i / 4, colour] for i, colour in enumerate(steps)], "colorbar": bars},
            "xaxis": axis,
            "yaxis": axis,
            "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 0, "yref": "container", "yanchor": "bottom"}
            | {"bgcolor": CLEAR},
            "hoverlabel": {"bgcolor": "#24292f", "bordercolor": "#57606a", "font": {"color": "#ffffff", "size": 13}},
            "modebar": {"bgcolor": CLEAR, "color": GREY, "activecolor": PALETTE[5]},
            "margin": {"l": 60, "r": 20, "t": 20 if name == "print" else 52, "b": 50},
        },
        data={
            "bar": [{"error_x": error, "error_y": error}],
            "scatter": [{"textfont": {"color": ink, "size": size - 3}}],
            "table": [{"header": cells, "cells": cells}],
        },
    )


def figure(traces: list[Any], *, title: str, height: int, **layout: Any) -> go.Figure:
    """Make a figure in the current theme; `title` is plain text."""
    name = _current.get()
    heading = {} if name == "print" else {"title": {"text": plain(title)}}
    width = {"width": 720} if name == "print" else {"autosize": True}
    # The template is passed with the layout, as plotly would otherwise insert its global default.
    return go.Figure(traces, {"template": template(name), "height": height, **heading, **width, **layout})


def plain(text: str) -> str:
    """Escape text for plotly, which interprets some HTML."""
    return escape(text, quote=False)
