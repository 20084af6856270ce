"""The scatter of decoding before and after draws what was measured."""

import pytest
import torch

from lens_fv.core.artefact import Provenance
from lens_fv.errors import LensFVError
from lens_fv.evaluation import DecodingEvaluation
from lens_fv.plotting import plot_decoding, theme

RANKS = [[100, 2], [500, 60], [30, 30], [4, 1]]


def made(name: str = "toy", ranks: list[list[int]] = RANKS) -> DecodingEvaluation:
    n = len(ranks)
    where = Provenance("tiny", None, "raw", "float32", True, (4, 3, 8, 4), f"{n} relations", "t", "p", 0, "made up")
    return DecodingEvaluation(
        provenance=where,
        relations=(*(f"{name}{i}" for i in range(n)), "wordless"),
        conditions=("extracted", "tuned"),
        targets=("word",) * n,
        relation=torch.arange(n),
        answer=torch.zeros(n, dtype=torch.bool),
        ranks=torch.tensor(ranks),
        vocabulary=2000,
        centred=False,
    )


def test_every_relation_with_words_is_a_point() -> None:
    study = made()
    figure = plot_decoding(study, "extracted", "tuned")
    line, points = figure.data
    assert [(round(1 / x), round(1 / y)) for x, y in zip(points.x, points.y)] == [tuple(row) for row in RANKS]
    assert points.hovertext[1] == "toy1: rank 500 before, 60 after"
    assert line.x == line.y
    assert "extracted" in figure.layout.xaxis.title.text and "tuned" in figure.layout.yaxis.title.text
    gain = study.difference("extracted", "tuned", "best_reciprocal")
    (note,) = figure.layout.annotations
    assert note.text == f"mean difference {gain.value:+.3f}, p = {gain.p_value:.2g}, 4 relations"


@pytest.mark.parametrize(("worst", "decades"), [(1, 1), (9, 1), (10, 1), (11, 2), (1000, 3), (1001, 4)])
def test_axes_reach_below_every_point(worst: int, decades: int) -> None:
    axis = plot_decoding(made(ranks=[[worst, 1]]), "extracted", "tuned").layout.xaxis
    assert axis.range[0] == pytest.approx(-decades - 0.05)
    assert axis.tickvals == tuple(10.0**i for i in range(-decades, 1))
    assert axis.ticktext == ("1/10,000", "1/1,000", "1/100", "1/10", "1")[-1 - decades :]


def test_what_cannot_be_drawn_is_refused() -> None:
    for before, after, of, said in [
        ("extracted", "random", "words", "the study has none"),
        ("tuned", "tuned", "words", "against themselves"),
        ("extracted", "tuned", "answers", "no relation has answers"),
    ]:
        with pytest.raises(LensFVError, match=said):
            plot_decoding(made(), before, after, of=of)


def test_hostile_names_are_escaped_and_themes_apply() -> None:
    assert "<script" not in str(plot_decoding(made("<script>"), "extracted", "tuned").to_dict())
    with theme("print"):
        assert plot_decoding(made(), "extracted", "tuned").layout.title.text is None
