"""Themes are scoped: plotly's own defaults stay as they are."""

from collections.abc import Callable

import plotly.graph_objects as go
import plotly.io as pio
import pytest

from lens_fv.heads import HeadRanking
from lens_fv.plotting import plot_heads, plot_top_heads, theme


def ink(figure: go.Figure) -> str:
    return figure.layout.template.layout.font.color


def test_theme_holds_inside_the_block_only(ranking: HeadRanking) -> None:
    before = ink(plot_top_heads(ranking))
    with theme("dark"):
        dark = ink(plot_top_heads(ranking))
        with theme("print"):
            assert ink(plot_top_heads(ranking)) == "#000000"
        assert ink(plot_top_heads(ranking)) == dark
    assert ink(plot_top_heads(ranking)) == before != dark


def test_theme_is_reset_when_the_block_raises(ranking: HeadRanking) -> None:
    before = ink(plot_top_heads(ranking))
    with pytest.raises(ZeroDivisionError), theme("dark"):
        raise ZeroDivisionError
    assert ink(plot_top_heads(ranking)) == before


def test_print_has_a_width_and_no_title(ranking: HeadRanking) -> None:
    with theme("print"):
        layout = plot_heads(ranking).layout
    assert layout.width == 720 and layout.title.text is None
    assert plot_heads(ranking).layout.title.text.startswith("Indirect effect")


@pytest.mark.parametrize("name", ["light", "dark", "print"])
def test_background_is_transparent_and_plotly_defaults_untouched(
    name: str, ranking: HeadRanking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pio.templates, "default", "seaborn")
    known = set(pio.templates)
    with theme(name):  # pyright: ignore[reportArgumentType]
        layout = plot_heads(ranking).layout
    assert pio.templates.default == "seaborn" and set(pio.templates) == known
    assert layout.template.layout.paper_bgcolor == layout.template.layout.plot_bgcolor == "rgba(0,0,0,0)"
    assert layout.template.layout.font.color not in (None, pio.templates["seaborn"].layout.font.color)


def test_figures_of_every_theme_hold_the_same_traces(make_ranking: Callable[..., HeadRanking]) -> None:
    drawn = {}
    for name in ("light", "dark", "print"):
        with theme(name):
            drawn[name] = plot_heads(make_ranking()).to_dict()["data"]
    assert drawn["light"] == drawn["dark"] == drawn["print"]
