"""Figures over a fine-tuning run draw what was measured."""

from dataclasses import replace

import pytest
import torch
from conftest import HEADS, LAYERS, provenance

from lens_fv.core.statistics import proportion
from lens_fv.dynamics import Trajectory, verdicts
from lens_fv.errors import LensFVError
from lens_fv.plotting import (
    plot_abilities,
    plot_forgetting,
    plot_head_change,
    plot_recovery,
    plot_vector_plane,
    plot_vector_similarity,
)

TASKS, CHECKPOINTS, ITEMS = ("one", "<two>", "three", "four", "five"), ("0", "0-one/2", "0-one/4", "1-three/2", "1-three/4"), 8
LAST = len(CHECKPOINTS) - 1


@pytest.fixture
def path():
    generator = torch.Generator().manual_seed(0)
    shape = (len(CHECKPOINTS), len(TASKS))

    def some(*rest):
        return torch.randn(*shape, *rest, generator=generator)

    effects = some(LAYERS, HEADS)
    effects[[1, 3]] = torch.nan
    return Trajectory(
        provenance=replace(provenance("all"), model="<tiny>"),
        checkpoints=CHECKPOINTS,
        steps=(0, 2, 4, 6, 8),
        tasks=TASKS,
        correct=(some(ITEMS) > 0).float(),
        instructed=some(ITEMS),
        in_context=(some(ITEMS) > 0).float(),
        knowledge=some(ITEMS),
        steered=(some(3, ITEMS) > 0).float(),
        alignment=some(ITEMS),
        head_writes=some(4, 8),
        head_writes_now=some(4, 8),
        answer_rank=some(LAYERS),
        effects=effects,
    )


def test_abilities_are_changes_with_their_bands(path):
    drawn = plot_abilities(path)
    lines = [trace for trace in drawn.data if trace.mode == "lines+markers"]
    bands = [trace for trace in drawn.data if trace.fill == "toself"]
    assert len(lines) == len(bands) == 2 * len(TASKS)
    curve = path.curve("knowledge", "three", change=True)
    (line,) = [trace for trace in lines if trace.xaxis == "x3" and trace.name.startswith("in a cloze")]
    assert list(line.x) == [0, 2, 4, 6, 8]
    assert list(line.y) == [estimate.mean for estimate in curve.values()]
    assert line.y[0] == 0
    (band,) = [trace for trace in bands if trace.xaxis == "x3" and "cloze" in trace.name]
    assert list(band.y) == [e.ci_high for e in curve.values()] + [e.ci_low for e in curve.values()][::-1]
    assert [trace.name for trace in lines if trace.showlegend] == ["after the instruction", "in a cloze, without instruction"]
    assert [note.text for note in drawn.layout.annotations] == ["one", "&lt;two&gt;", "three", "four", "five"]
    # four panels in the first row, one below
    tops = [drawn.layout[f"yaxis{i or ''}"].domain[1] for i in (0, 2, 3, 4, 5)]
    assert tops[0] == tops[3] == 1 > tops[4] > 0
    assert {shape.x0 for shape in drawn.layout.shapes} == {4}  # where the first task ends
    assert len(plot_abilities(path, ["three"]).data) == 4
    with pytest.raises(LensFVError, match="curve of six: the trajectory has the tasks one"):
        plot_abilities(path, ["six"])


def test_similarities_are_drawn_beside_random_heads(path):
    drawn = plot_vector_similarity(path)
    own, control = path.head_similarity()
    for values, axis in ((path.similarity(), "x"), (path.alignment.nanmean(-1), "x2"), (own.mean(-1), "x3")):
        lines = [trace for trace in drawn.data if trace.xaxis == axis and trace.name != "random heads"]
        for t, line in enumerate(lines):
            assert list(line.y) == pytest.approx(values[:, t].tolist())
    (random,) = [trace for trace in drawn.data if trace.name == "random heads"]
    assert list(random.y) == pytest.approx(control.mean((1, 2)).tolist())
    assert drawn.data[1].name == "&lt;two&gt;"


def test_the_plane_is_that_of_the_beginning(path):
    drawn = plot_vector_plane(path)
    lines = [trace for trace in drawn.data if trace.mode == "lines+markers"]
    x, y = (torch.tensor([getattr(line, axis) for line in lines]).T for axis in "xy")  # checkpoints x tasks
    vectors = path.vectors / path.vectors[:1].norm(dim=-1, keepdim=True)
    begin = vectors[0] - vectors[0].mean(0)
    # the two components hold as much of the variance as any plane can
    best = torch.linalg.eigvalsh(begin.T @ begin)[-2:].sum()
    assert float(x[0].square().sum() + y[0].square().sum()) == pytest.approx(float(best), rel=1e-4)
    assert float(x[0].sum()) == pytest.approx(0, abs=1e-4)
    # and later vectors are projected into the same
    basis, *_ = torch.linalg.lstsq(begin, torch.stack([x[0], y[0]], 1))
    assert basis.shape == (8, 2)
    moved = (vectors[LAST] - vectors[0]) @ torch.linalg.pinv(begin) @ torch.stack([x[0], y[0]], 1)
    torch.testing.assert_close(torch.stack([x[LAST] - x[0], y[LAST] - y[0]], 1), moved, atol=1e-3, rtol=1e-3)
    arrows = [(note.ax, note.ay, note.x, note.y) for note in drawn.layout.annotations]
    assert arrows == [tuple(map(float, ends)) for ends in zip(x[0], y[0], x[LAST], y[LAST])]
    with pytest.raises(LensFVError, match="they span none; follow three tasks or more"):
        plot_vector_plane(replace(path, tasks=TASKS[:2]))


def test_recovery_is_drawn_with_wilson_intervals(path):
    judged = verdicts(replace(path, majority=torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0])))
    assert judged[1].judgement == "absent"
    drawn = plot_recovery(judged)
    assert [bar.name.split(",")[0] for bar in drawn.data] == ["before", "after", "after", "after", "after"]
    assert list(drawn.data[2].y) == [verdict.with_vector.mean for verdict in judged]
    before = judged[0].before
    assert before == proportion(round(before.mean * ITEMS), ITEMS)
    assert drawn.data[0].error_y.array[0] == pytest.approx(before.ci_high - before.mean)
    assert drawn.data[0].error_y.arrayminus[0] == pytest.approx(before.mean - before.ci_low)
    assert drawn.data[0].x[1] == f"&lt;two&gt;<br><i>{judged[1].judgement}</i>"
    with pytest.raises(LensFVError, match="there are no verdicts"):
        plot_recovery([])


def test_the_matrix_has_the_ends_of_tasks(path):
    (heat,) = plot_forgetting(path).data
    assert list(heat.y) == ["before training", "after one", "after three"]
    assert heat.x[1] == "&lt;two&gt;"
    torch.testing.assert_close(torch.tensor(heat.z), path.accuracy[[0, 2, 4]])
    path.in_context[3:] = torch.nan  # the last checkpoint is within the training of "three"
    assert list(plot_forgetting(path).data[0].y) == ["before training", "after one"]


def test_head_maps_show_before_after_and_their_difference(path):
    before, after, difference = plot_head_change(path, "three").data
    torch.testing.assert_close(torch.tensor(before.z), path.effects[0, 2].T)
    torch.testing.assert_close(torch.tensor(after.z), path.effects[LAST, 2].T)
    torch.testing.assert_close(torch.tensor(difference.z), (path.effects[LAST, 2] - path.effects[0, 2]).T)
    with pytest.raises(LensFVError, match="draw the heads of three at 0-one/2: they were not ranked then"):
        plot_head_change(path, "three", 1)
    with pytest.raises(LensFVError, match="draw the heads of six: the trajectory has the tasks one"):
        plot_head_change(path, "six")
