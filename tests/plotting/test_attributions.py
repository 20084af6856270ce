"""The scatter of cheap scores against the exact effect draws what was measured."""

import pytest
import torch

from lens_fv.core.artefact import Provenance
from lens_fv.errors import LensFVError
from lens_fv.heads.comparison import HeadComparison
from lens_fv.plotting import plot_attributions
from lens_fv.plotting.theme import theme


def made(task: str = "toy", trials: int = 8) -> HeadComparison:
    exact, attribution, direct = torch.randn(3, trials, 4, 3, generator=torch.Generator().manual_seed(0))
    exact[:, 2, 1] += 9
    where = Provenance("tiny", None, "raw", "float32", True, (4, 3, 8, 4), task, "t", "p", 0, "made up")
    return HeadComparison(where, exact, exact + 0.1 * attribution, direct, "logprob")


def test_every_head_is_a_point_in_each_panel() -> None:
    comparison = made()
    figure = plot_attributions(comparison, top=3)
    for score, axis in (("attribution", "x"), ("direct", "x2")):
        points = [t for t in figure.data if t.xaxis == axis and t.mode == "markers+text"]
        drawn = sorted((x, y) for t in points for x, y in zip(t.x, t.y))
        pairs = zip(comparison.mean(score).flatten().tolist(), comparison.mean("exact").flatten().tolist())
        assert drawn == sorted(pairs)
        (marked,) = (t for t in points if t.name == "top 3 by exact effect")
        assert list(marked.y) == comparison.mean("exact").flatten().topk(3).values.tolist()
        assert marked.text[0] == "2.1"
        exact, other = (float(comparison.mean(s)[2, 1]) for s in ("exact", score))
        assert marked.hovertext[0].startswith(f"head 2.1: exact {exact:+.4f}") and marked.hovertext[0].endswith(f"{other:+.4f}")


def test_correlations_and_units_are_written() -> None:
    comparison = made()
    figure = plot_attributions(comparison)
    for score, note in zip(("attribution", "direct"), figure.layout.annotations):
        rho = comparison.correlation(score)
        assert note.text.endswith(f"Spearman {rho:+.2f}")
    assert "nats" in figure.layout.yaxis.title.text and "nats" in figure.layout.xaxis.title.text
    assert "logit" in figure.layout.xaxis2.title.text and figure.layout.yaxis2.matches == "y"


def test_equality_is_a_line_where_units_agree() -> None:
    (line,) = (t for t in plot_attributions(made()).data if t.mode == "lines")
    assert line.xaxis == "x" and list(line.x) == list(line.y)


def test_top_heads_are_some_and_no_more_than_there_are() -> None:
    for top in (0, 13):
        with pytest.raises(LensFVError, match=r"between 1 and all 12|at least 1"):
            plot_attributions(made(), top=top)
    assert len(plot_attributions(made(), top=12).data[1].x) == 0


def test_hostile_names_are_escaped_and_themes_apply() -> None:
    assert "<script" not in str(plot_attributions(made("<script>")).to_dict())
    with theme("print"):
        assert plot_attributions(made()).layout.title.text is None
