"""Judgements and metrics on trajectories that were made by hand."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy.stats import binom

from lens_fv.core.artefact import Provenance
from lens_fv.dynamics import Trajectory, continual_metrics, verdicts
from lens_fv.errors import LensFVError

N = 20
RECORDED = Path(__file__).parents[2] / "docs/results/knowledge/records/smollm2-135m/trajectory.safetensors"


def right(n, of=N):
    return torch.tensor([1.0] * n + [0.0] * (of - n))


@pytest.fixture
def provenance(tiny_model):
    return Provenance.of(tiny_model("llama"), task="", task_hash="", prompts=[], seed=0, method="trajectory", options={})


def path(provenance, tasks, names=("0", "0-a/1")):
    """Tasks as (right before, right after, right with the vector, right with a random one, change of knowledge)."""
    t, m = len(tasks), len(names)
    correct, added, knowledge = torch.zeros(m, t, N), torch.zeros(m, t, 3, N), torch.full((m, t, N), -2.0)
    for i, (before, after, vector, random, change) in enumerate(tasks.values()):
        correct[0, i], correct[1:, i] = right(before), right(after)
        added[:, i, 0], added[:, i, 1] = right(vector), right(random)
        knowledge[1:, i] += change + 0.1 * torch.linspace(-1, 1, N)
    blank, written = torch.zeros(m, t, N), torch.ones(m, t, 4, 32)
    return Trajectory(
        provenance=provenance,
        checkpoints=names,
        steps=tuple(range(m)),
        tasks=tuple(tasks),
        correct=correct,
        instructed=blank,
        in_context=correct / 2,
        knowledge=knowledge,
        steered=added,
        alignment=blank,
        head_writes=written,
        head_writes_now=written,
        answer_rank=torch.zeros(m, t, 3),
        effects=torch.full((m, t, 3, 4), torch.nan),
    )


def test_curves_are_means_over_items(provenance):
    made = path(provenance, {"one": (15, 2, 12, 3, 0.5), "two": (10, 10, 10, 10, 0.0)})
    shortened = replace(made, correct=made.correct.index_fill(2, torch.tensor([0, 19]), torch.nan))
    before, after = shortened.curve("accuracy", "one").values()
    assert (before.mean, before.n, after.mean) == (14 / 18, 18, 1 / 18)
    assert 0.5 < before.ci_low < before.mean < before.ci_high < 1
    assert shortened.curve("accuracy", "one", change=True)[1].mean == pytest.approx(-13 / 18)
    assert made.curve("with_vector", "one")[1].mean == pytest.approx(12 / 20)
    assert made.curve("with_random", "one")[1].mean == pytest.approx(3 / 20)
    assert made.curve("knowledge", "one", change=True)[1].mean == pytest.approx(0.5)
    with pytest.raises(LensFVError, match="curve of three: the trajectory has the tasks one, two"):
        made.curve("accuracy", "three")


def test_heads_that_are_still_the_strongest(provenance):
    made = path(provenance, {"one": (1, 1, 1, 1, 0.0), "two": (1, 1, 1, 1, 0.0)}, ("0", "0-a/1", "0-a/2"))
    effects = torch.full((3, 2, 3, 4), torch.nan)
    effects[0] = effects[2] = torch.arange(12.0).view(3, 4)
    effects[2, 0, 0, 0] = 20.0  # head 0.0 and 2.3 instead of 2.2 and 2.3
    ((same, _), between, (one, two)) = replace(made, effects=effects).head_overlaps()
    assert (same.jaccard, one.jaccard, two.jaccard) == (1, 1 / 3, 1)
    assert between == [None, None]


def test_every_judgement_where_it_belongs(provenance):
    made = path(
        provenance,
        {
            "steady": (15, 14, 15, 14, -3.0),
            "suppressed": (15, 2, 12, 2, 0.1),
            "overwritten": (15, 2, 3, 2, -1.0),
            "restored though forgotten": (15, 2, 12, 2, -1.0),
            "restored by anything": (15, 2, 12, 12, 0.0),
            "fell a little": (15, 2, 2, 2, -0.5),
        },
    )
    found = {v.task: v for v in verdicts(made)}
    assert [v.judgement for v in found.values()] == ["kept", "suppressed", "overwritten", "undecided", "undecided", "undecided"]
    one = found["suppressed"]
    shares = tuple(e.mean for e in (one.before, one.after, one.with_vector, one.with_random))
    assert shares == pytest.approx((0.75, 0.1, 0.6, 0.1))
    assert one.recovery == pytest.approx(10 / 13)
    assert math.isnan(found["steady"]._replace(after=one.before).recovery)
    # 13 items went wrong and none right; six tasks, of which five lost as much
    assert one.p_lost == pytest.approx(6 * 0.5**13)
    assert found["steady"].p_lost == pytest.approx(binom.sf(0, 1, 0.5))
    assert one.knowledge.mean == pytest.approx(0.1)
    assert one.knowledge.ci_low < 0.1 < one.knowledge.ci_high
    assert verdicts(made, margin=4.0)[2].judgement == "undecided"


def test_a_task_that_was_not_there_is_not_judged(provenance):
    """Wilson's interval begins at 0.22 for 8 of 20, at 0.53 for 15."""
    tasks = {
        "never there": (0, 0, 0, 0, 0.0),
        "one same answer": (8, 0, 8, 0, 0.0),
        "steady": (15, 14, 15, 14, 0.0),
        "suppressed": (15, 2, 12, 2, 0.0),
    }
    made = path(provenance, tasks)
    known = replace(made, majority=torch.tensor([0.05, 0.25, 0.5, 0.5]))
    assert known.present() == [False, False, True, True]
    found = {v.task: v for v in verdicts(known)}
    assert [v.judgement for v in found.values()] == ["absent", "absent", "kept", "suppressed"]
    assert [v.lost for v in found.values()] == [False, False, False, True]
    same = found["one same answer"]
    assert (same.before.mean, same.after.mean, same.majority) == (pytest.approx(0.4), 0, 0.25)
    assert all(math.isnan(value) for value in (same.p_lost, same.p_restored, same.recovery))
    assert found["suppressed"].p_lost == pytest.approx(2 * 0.5**13)  # two tasks are judged
    # without majorities, whoever gets one right is there
    assert [v.judgement for v in verdicts(made)] == ["absent", "suppressed", "kept", "suppressed"]
    nobody = path(provenance, {"never there": (0, 0, 0, 0, 0.0)})
    assert [v.judgement for v in verdicts(nobody)] == ["absent"]


def test_files_without_majorities_are_read():
    found = Trajectory.load(RECORDED)
    assert found.majority is None
    assert found.tasks == ("present-past", "country-capital", "antonym")
    assert all(math.isnan(v.majority) for v in verdicts(found))


def test_items_that_are_not_there_do_not_count(provenance):
    made = path(provenance, {"a": (15, 2, 12, 2, 0.0)})
    for key in ("correct", "knowledge"):
        getattr(made, key)[:, 0, 15:] = torch.nan
    made.steered[:, 0, :, 15:] = torch.nan
    (found,) = verdicts(made)
    assert (found.before.mean, found.after.mean) == (1.0, pytest.approx(2 / 15))
    assert found.knowledge.n == 15


def test_moments_that_cannot_be_judged(provenance):
    made = path(provenance, {"a": (15, 2, 12, 2, 0.0)})
    for checkpoint in (0, 2, -2):
        with pytest.raises(LensFVError, match=f"judge checkpoint {checkpoint} of 2"):
            verdicts(made, checkpoint=checkpoint)


def test_metrics_of_a_sequence_by_hand(provenance):
    names = ("0", "0-a/1", "0-a/2", "1-b/2")
    made = path(provenance, {"a": (0, 0, 0, 0, 0.0), "b": (0, 0, 0, 0, 0.0), "held out": (0, 0, 0, 0, 0.0)}, names)
    for checkpoint, counts in enumerate([(0, 2, 10), (8, 2, 9), (18, 2, 8), (10, 16, 4)]):
        for task, count in enumerate(counts):
            made.correct[checkpoint, task] = right(count)
            made.in_context[checkpoint, task] = right(count + 2)
    found = continual_metrics(made, ["a", "b"])
    assert found.matrix == [[pytest.approx(0.9), pytest.approx(0.1)], [pytest.approx(0.5), pytest.approx(0.8)]]
    assert found.average == pytest.approx((0.9 + 0.8) / 2)
    assert found.final == pytest.approx((0.5 + 0.8) / 2)
    assert found.forgetting == pytest.approx(0.2)
    assert (found.general, found.in_context) == (pytest.approx(0.2), pytest.approx(0.3))
    # "held out" is not there at the beginning: nothing of it can be kept; what was trained counts
    absent = continual_metrics(replace(made, majority=torch.tensor([0.0, 0.0, 0.5])), ["a", "b"])
    assert math.isnan(absent.general)
    assert math.isnan(absent.in_context)
    assert absent.matrix == found.matrix
    assert math.isnan(continual_metrics(path(provenance, {"a": (0, 0, 0, 0, 0.0)}), ["a"]).general)
    with pytest.raises(LensFVError, match=r"metrics of a run of a, c: the trajectory has a, b, held out at 0, 0-a/1"):
        continual_metrics(made, ["a", "c"])
    with pytest.raises(LensFVError, match="metrics of a run of no tasks"):
        continual_metrics(made, [])


def test_a_moment_within_a_task_does_not_stand_for_its_end(provenance):
    """Tasks are asked in context at ends alone."""
    made = path(provenance, {"a": (9, 9, 9, 9, 0.0), "b": (9, 9, 9, 9, 0.0)}, ("0", "0-a/5", "0-a/10", "1-b/5"))
    made.in_context[[1, 3]] = torch.nan
    assert made.stage_ends == [0, 2]
    with pytest.raises(LensFVError, match=r"at 0, 0-a/5, 0-a/10, 1-b/5, of which ends of tasks: 0-a/10; it needs"):
        continual_metrics(made, ["a", "b"])
    assert continual_metrics(made, ["a"]).average == pytest.approx(9 / 20)
