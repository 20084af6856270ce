"""What is drawn is what was measured."""

from collections.abc import Callable

import plotly.graph_objects as go
import pytest
import torch

from lens_fv.errors import LensFVError
from lens_fv.evaluation import Evaluation, proportion
from lens_fv.heads import HeadRanking
from lens_fv.plotting import plot_conditions, plot_decoded, plot_heads, plot_layers, plot_top_heads
from lens_fv.plotting.decoding import visible
from lens_fv.vectors import Decoded, InjectionSweep

HOSTILE = "<script>alert(1)</script>"


def bars_of(figure: go.Figure) -> dict[str, go.Bar]:
    return {trace.name: trace for trace in figure.data if isinstance(trace, go.Bar)}


def test_heat_map_draws_the_mean_with_layers_across_and_heads_down(ranking: HeadRanking) -> None:
    figure = plot_heads(ranking)
    (cells,) = figure.data
    assert torch.equal(torch.tensor(cells.z), ranking.mean.T)
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("layer", "head")
    assert figure.layout.yaxis.autorange == "reversed"


def test_heat_map_is_symmetric_around_zero_with_a_neutral_middle(ranking: HeadRanking) -> None:
    axis = plot_heads(ranking).layout.coloraxis
    assert axis.cmax == -axis.cmin == pytest.approx(float(ranking.mean.abs().max()))
    scale = dict(plot_heads(ranking).layout.template.layout.coloraxis.colorscale)
    red, green, blue = (int(scale[0.5][i : i + 2], 16) for i in (1, 3, 5))
    assert red == green == blue


def test_heat_map_hover_gives_head_effect_and_interval(ranking: HeadRanking) -> None:
    low, high = ranking.interval()
    text = plot_heads(ranking).data[0].text[2][4]
    assert text == f"head 4.2: effect {ranking.mean[4, 2]:+.3f} [{low[4, 2]:+.3f}, {high[4, 2]:+.3f}]"


@pytest.mark.parametrize(("metric", "unit"), [("prob", "probability"), ("logprob", "nats")])
def test_colour_bar_names_the_unit(make_ranking: Callable[..., HeadRanking], metric: str, unit: str) -> None:
    assert unit in plot_heads(make_ranking(metric)).layout.coloraxis.colorbar.title.text


def test_top_heads_error_bars_end_at_the_interval(ranking: HeadRanking) -> None:
    figure = plot_top_heads(ranking, 4)
    (bars,) = figure.data
    best = ranking.top(4)
    assert list(bars.y) == [head.name for head in best] and best[0].name == "4.2"
    assert list(bars.x) == [head.effect.mean for head in best]
    ends = zip(bars.x, bars.error_x.arrayminus, bars.error_x.array)
    assert [(x - a, x + b) for x, a, b in ends] == [pytest.approx(head.effect[1:3]) for head in best]
    # The first is on top, and names such as "1.10" are not sorted as numbers.
    assert figure.layout.yaxis.type == "category" and figure.layout.yaxis.autorange == "reversed"


def test_top_heads_of_one_trial_have_no_backward_interval(make_ranking: Callable[..., HeadRanking]) -> None:
    error = plot_top_heads(make_ranking(trials=1)).data[0].error_x
    assert set(error.array) == set(error.arrayminus) == {0.0}


def test_top_heads_refuses_none(ranking: HeadRanking) -> None:
    with pytest.raises(LensFVError, match="at least 1"):
        plot_top_heads(ranking, 0)


def test_layer_curve_draws_accuracy_with_wilson_bands(make_sweep: Callable[..., InjectionSweep]) -> None:
    sweeps = {"a": make_sweep(), "b": make_sweep(seed=1)}
    figure = plot_layers(sweeps, chosen={"b": 4})
    for task, sweep in sweeps.items():
        band, line = (t for t in figure.data if t.name == task and len(t.x) > 1)
        assert list(line.y) == pytest.approx(sweep.top1[..., 0].double().mean(0).tolist())
        ends = [proportion(int(hits), 12)[1:3] for hits in sweep.top1[..., 0].sum(0)]
        assert list(band.y[:6]) == pytest.approx([high for _, high in ends])
        assert list(band.y[6:]) == pytest.approx([low for low, _ in reversed(ends)])
        assert list(band.x) == [*range(6), *reversed(range(6))]


def test_layer_curve_marks_the_chosen_layer(make_sweep: Callable[..., InjectionSweep]) -> None:
    sweep = make_sweep()
    marks = [t for t in plot_layers({"a": sweep}, chosen={"a": 4}).data if t.mode == "markers+text"]
    assert [(t.name, list(t.x), list(t.y)) for t in marks] == [("a", [4], [float(sweep.top1[:, 4, 0].double().mean())])]


def test_layer_curve_of_log_probability(make_sweep: Callable[..., InjectionSweep]) -> None:
    sweep = make_sweep()
    figure = plot_layers({"a": sweep}, measure="logprob")
    assert list(figure.data[1].y) == pytest.approx(sweep.logprob[..., 0].double().mean(0).tolist())
    assert all(low < y < high for low, y, high in zip(figure.data[0].y[:5:-1], figure.data[1].y, figure.data[0].y))
    assert "nats" in figure.layout.yaxis.title.text


def test_layer_curve_refuses_what_it_cannot_draw(make_sweep: Callable[..., InjectionSweep]) -> None:
    with pytest.raises(LensFVError, match="no sweeps"):
        plot_layers({})
    with pytest.raises(LensFVError, match="2 scales at resid_post"):
        plot_layers({"a": make_sweep(scales=(1.0, 2.0))})
    with pytest.raises(LensFVError, match="mark layer 6 of a"):
        plot_layers({"a": make_sweep()}, chosen={"a": 6})
    with pytest.raises(LensFVError, match="mark layer 1 of b"):
        plot_layers({"a": make_sweep()}, chosen={"b": 1})


def test_condition_bars_draw_results_and_intervals(evaluations: dict[str, Evaluation]) -> None:
    bars = bars_of(plot_conditions(evaluations))
    tuned = [evaluations[task]["tuned"] for task in evaluations]
    drawn = bars["tuned vector"]
    assert list(drawn.x) == list(evaluations) and list(drawn.y) == [row.top1.mean for row in tuned]
    ends = zip(drawn.y, drawn.error_y.arrayminus, drawn.error_y.array)
    assert [(y - a, y + b) for y, a, b in ends] == [pytest.approx(row.top1[1:3]) for row in tuned]


def test_condition_bars_put_controls_last_and_leave_missing_ones_out(evaluations: dict[str, Evaluation]) -> None:
    bars = bars_of(plot_conditions({task: evaluations[task] for task in ("antonym", "present-past")}))
    names = ["no vector", "10-shot prompt", "extracted vector", "tuned vector", "random vector", "another relation's vector"]
    assert list(bars) == names
    assert list(bars["extracted vector"].x) == ["present-past"]


def test_condition_bars_show_a_zero_as_a_line_and_a_number(evaluations: dict[str, Evaluation]) -> None:
    figure = plot_conditions(evaluations, conditions=["random"])
    bars, numbers = figure.data
    assert list(bars.y) == [0, 0] and bars.marker.line.width > 0
    assert list(numbers.text) == ["0.00", "0.00"]
    assert all(y > e for y, e in zip(numbers.y, bars.error_y.array))


def test_condition_bars_of_other_measures(evaluations: dict[str, Evaluation]) -> None:
    row = evaluations["antonym"]["k_shot"]
    full = bars_of(plot_conditions(evaluations, measure="exact_match"))["10-shot prompt"]
    assert full.y[1] == row.exact_match.mean and full.y[1] + full.error_y.array[1] == pytest.approx(proportion(6, 20).ci_high)
    logprob = bars_of(plot_conditions(evaluations, measure="logprob_per_answer"))["10-shot prompt"]
    assert logprob.y[1] == row.logprob_per_answer.mean and logprob.y[1] - logprob.error_y.arrayminus[1] == pytest.approx(
        row.logprob_per_answer.ci_low
    )


def test_condition_bars_name_no_number_of_shots_when_they_differ(make_evaluation: Callable[..., Evaluation]) -> None:
    two = {"a": make_evaluation({"k_shot": 0.5}, n_shots=5), "b": make_evaluation({"k_shot": 0.5}, n_shots=10)}
    assert list(bars_of(plot_conditions(two))) == ["k-shot prompt"]


def test_condition_bars_refuse_what_they_cannot_draw(evaluations: dict[str, Evaluation]) -> None:
    with pytest.raises(LensFVError, match="no evaluations"):
        plot_conditions({})
    with pytest.raises(LensFVError, match=r"'tunned'.*choose from none"):
        plot_conditions(evaluations, conditions=["tunned"])
    with pytest.raises(LensFVError, match="no condition"):
        plot_conditions(evaluations, conditions=[])


@pytest.mark.parametrize(
    ("token", "shown"),
    [(" walked", "␣walked"), ("\n\t", "↵⇥"), ("", "(empty)"), ("\u200f\xa0", "\\u200f\\xa0"), ("東京", "東京")],
)
def test_blanks_and_characters_without_a_shape_are_seen(token: str, shown: str) -> None:
    assert visible(token) == shown


def test_decoded_words_draw_tokens_probabilities_and_best_ranks() -> None:
    many = Decoded([(" went", 0.5), ("<b>", 0.0001)], {"past": 900, "tense": 3, "verb": 40, "time": 41}, 1000)
    few = Decoded([("ed", 0.25)], {}, 1000)
    cells = plot_decoded({"a<b": many, "b": few}).data[0]
    assert list(cells.cells.values[0]) == ["<b>a&lt;b</b>", "<b>b</b>"]
    assert list(cells.cells.values[1]) == ["␣went<br>0.500", "ed<br>0.250"]
    assert list(cells.cells.values[2]) == ["&lt;b&gt;<br>&lt;0.001", ""]
    assert list(cells.cells.values[3]) == ["tense: 3<br>verb: 40<br>time: 41", ""]
    assert cells.header.values[3] == "<b>ranks of words, of 1,000</b>"


def test_decoded_words_without_ranks_have_no_such_column() -> None:
    assert len(plot_decoded({"a": Decoded([("x", 0.1)], {}, 10)}).data[0].header.values) == 2


def test_decoded_words_refuse_nothing() -> None:
    for nothing in ({}, {"a": Decoded([], {}, 10)}):
        with pytest.raises(LensFVError, match="no vector"):
            plot_decoded(nothing)


def test_hostile_names_are_escaped_in_every_figure(
    make_ranking: Callable[..., HeadRanking],
    make_sweep: Callable[..., InjectionSweep],
    make_evaluation: Callable[..., Evaluation],
) -> None:
    ranking = make_ranking(task=HOSTILE)
    figures = (
        plot_heads(ranking),
        plot_top_heads(ranking),
        plot_layers({HOSTILE: make_sweep()}, chosen={HOSTILE: 1}),
        plot_conditions({HOSTILE: make_evaluation({HOSTILE: 0.5})}),
        plot_decoded({HOSTILE: Decoded([(HOSTILE, 0.1)], {HOSTILE: 2}, 10)}),
    )
    for figure in figures:
        drawn = str(figure.to_dict())
        assert "&lt;script&gt;" in drawn and "<script" not in drawn
