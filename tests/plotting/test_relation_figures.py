"""Figures over many relations draw what was measured."""

import math

import numpy as np
import pytest
import scipy

from lens_fv.core.statistics import Estimate, estimate
from lens_fv.errors import LensFVError
from lens_fv.plotting import plot_interval_dots, plot_interval_lines, plot_relations, plot_transfer, theme

PANELS = {
    "one": {"tuned": {"x": Estimate(0.5, 0.4, 0.7, 3), "y": Estimate(0.2, 0.2, 0.2, 1)}, "none": {"x": Estimate(0, 0, 0.1, 3)}},
    "<two>": {"none": {"y": Estimate(0.1, 0, 0.3, 4)}, "late": {"x": Estimate(0.9, 0.8, 1, 2)}},
}


def test_an_estimate_is_the_mean_with_its_bootstrap_interval():
    values = [0.1, 0.5, 0.9, 0.2]
    low, high = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert estimate(values) == pytest.approx((0.425, low, high, 4))
    assert estimate([0.3]) == (0.3, 0.3, 0.3, 1)


def test_dots_are_means_in_their_rows_with_their_intervals():
    drawn = plot_interval_dots(PANELS, title="t", axis="accuracy")
    assert list(drawn.layout.yaxis.ticktext) == ["x", "y"]
    assert drawn.layout.yaxis.range[0] > drawn.layout.yaxis.range[1]  # the first is on top
    for panel, axis in (("one", "x"), ("<two>", "x2")):
        for name, row in PANELS[panel].items():
            (dots,) = (t for t in drawn.data if t.xaxis == axis and t.name == name)
            assert list(dots.x) == [e.mean for e in row.values()]
            assert [round(y) for y in dots.y] == [["x", "y"].index(category) for category in row]
            ends = [(x - a, x + b) for x, a, b in zip(dots.x, dots.error_x.arrayminus, dots.error_x.array)]
            assert ends == [pytest.approx((e.ci_low, e.ci_high)) for e in row.values()]
    # no two series share a height, and each is in the legend once
    assert len({y for t in drawn.data if t.xaxis == "x" for y in t.y}) == 3
    legend = [t.name for t in drawn.data if t.showlegend]
    assert sorted(legend) == ["late", "none", "tuned"]
    assert [note.text for note in drawn.layout.annotations] == ["one", "&lt;two&gt;"]


def test_lines_go_from_left_to_right():
    line = {20.0: Estimate(0.5, 0.4, 0.6, 3), 5.0: Estimate(0.1, 0, 0.3, 3)}
    drawn = plot_interval_lines({"m": line}, title="t", x_axis="pairs", y_axis="accuracy", log=True)
    (found,) = drawn.data
    assert (list(found.x), list(found.y)) == ([5, 20], [0.1, 0.5])
    assert list(found.error_y.array) == pytest.approx([0.2, 0.1]) and list(found.error_y.arrayminus) == pytest.approx(
        [0.1, 0.1]
    )
    assert drawn.layout.xaxis.type == "log" and list(drawn.layout.xaxis.ticktext) == ["5", "20"]


@pytest.mark.parametrize("log", [True, False])
def test_intervals_of_lines_do_not_hide_each_other(log):
    line = {5.0: Estimate(0.1, 0, 0.3, 3), 20.0: Estimate(0.5, 0.4, 0.6, 3)}
    drawn = plot_interval_lines({"a": line, "b": line}, title="t", x_axis="pairs", y_axis="accuracy", log=log)
    a, b = ([math.log(x) if log else x for x in each.x] for each in drawn.data)
    middle, apart = [(x + y) / 2 for x, y in zip(a, b)], [y - x for x, y in zip(a, b)]
    ends = [math.log(5), math.log(20)] if log else [5, 20]
    assert middle == pytest.approx(ends) and apart == pytest.approx([0.01 * (ends[1] - ends[0])] * 2)
    assert drawn.data[0].hovertext[0].startswith("a, 5: ")


def test_every_relation_is_a_point_of_its_group():
    points = {"a": (0.1, 0.4), "b": (0.5, 0.6), "<c>": (0.3, 0.2)}
    groups = {"a": "form", "b": "<form>", "<c>": "form"}
    drawn = plot_relations({"m": points}, groups, title="t", x_axis="before", y_axis="after")
    line, form, other = drawn.data
    assert line.x == line.y
    assert list(zip(form.x, form.y)) == [points["a"], points["<c>"]] and list(form.hovertext)[1].startswith("&lt;c&gt;")
    assert list(zip(other.x, other.y)) == [points["b"]] and other.name == "&lt;form&gt;"
    assert (drawn.layout.xaxis.title.text, drawn.layout.yaxis.title.text) == ("before", "after")


def test_transfer_has_vectors_down_and_relations_across():
    values = np.arange(9.0).reshape(3, 3) - 2
    values[0, 2] = np.nan
    drawn = plot_transfer(values, ["a", "b", "c"], ["k", "l", "k"], title="t", unit="nats")
    (cells,) = drawn.data
    order = [0, 2, 1]
    assert list(drawn.layout.xaxis.ticktext) == list(drawn.layout.yaxis.ticktext) == ["a", "c", "b"]
    for i, a in enumerate(order):
        for j, b in enumerate(order):
            assert cells.z[i][j] == (None if (a, b) == (0, 2) else values[a, b])
    assert cells.text[1][0] == "vector c on a: +4.000" and cells.text[0][1] == "vector a on c: not tried"
    assert drawn.layout.coloraxis.cmax == -drawn.layout.coloraxis.cmin == 6
    limited = plot_transfer(values, ["a", "b", "c"], ["k", "l", "k"], title="t", unit="nats", limit=2.5)
    assert limited.layout.coloraxis.cmax == 2.5
    many = plot_transfer(np.ones((70, 70)), [f"r{i}" for i in range(70)], ["x"] * 30 + ["y"] * 40, title="t", unit="nats")
    assert list(many.layout.xaxis.ticktext) == ["x", "y"] and len(many.layout.shapes) == 2


def test_what_cannot_be_drawn_is_refused_and_themes_apply():
    with pytest.raises(LensFVError, match="no numbers"):
        plot_interval_dots({"one": {}}, title="t")
    with pytest.raises(LensFVError, match="no numbers"):
        plot_interval_lines({}, title="t", x_axis="x", y_axis="y")
    with pytest.raises(LensFVError, match="given for b"):
        plot_relations({"m": {"b": (0.0, 1.0)}}, {"a": "form"}, title="t", x_axis="x", y_axis="y")
    with pytest.raises(LensFVError, match=r"shape \(2, 2\), 1 classes"):
        plot_transfer(np.ones((2, 2)), ["a", "b"], ["k"], title="t", unit="nats")
    with theme("print"):
        assert plot_interval_dots(PANELS, title="t").layout.title.text is None
