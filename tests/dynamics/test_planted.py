"""A model whose one instruction head is known: rankings find it, and what becomes of a task is told rightly."""

import pytest
import torch
from planted import HEAD, planted_model, planted_tasks

from lens_fv.dynamics import Trajectory, make_task_probe, measure_checkpoint, verdicts
from lens_fv.heads import rank_heads, rank_instruction_heads
from lens_fv.vectors import extract

TASKS = planted_tasks()
OTHERS = [task.instructions[0] for task in TASKS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("planted")


@pytest.fixture(scope="module")
def model(folder):
    return planted_model(folder)


@pytest.fixture(scope="module")
def probes(model):
    return [probe(model, task) for task in TASKS]


def probe(model, task):
    ranking = rank_instruction_heads(model, task, counterpart="none", n_clean=4, n_trials=4)
    vector = extract(model, task, ranking, n_heads=1)
    return make_task_probe(model, task, vector, n_context=2)


def path(model, probes, later):
    return Trajectory.of([measure_checkpoint(model, probes), measure_checkpoint(later, probes, name="later", step=1)])


@pytest.mark.parametrize("counterpart", ["none", "other", "real_text", "equiprobable"])
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_the_instruction_head_is_found(model, task, counterpart):
    ranking = rank_instruction_heads(model, task, counterpart=counterpart, others=OTHERS, n_clean=4, n_trials=4)
    assert ranking.top(1)[0][:2] == HEAD
    rest = ranking.mean.clone()
    rest[HEAD] = 0
    assert float(ranking.mean[HEAD]) > 0.9 > 0.05 > float(rest.abs().max())


def test_it_is_found_against_noise_too(model):
    """Little of it: much would reach the query's word as well, through the head that looks for it."""
    ranking = rank_instruction_heads(model, TASKS[0], counterpart="noise_on_instruction", noise=0.2, n_clean=4, n_trials=4)
    first, second = ranking.top(2)
    assert first[:2] == HEAD
    assert first.effect.mean > 0.2
    assert abs(second.effect.mean) < 0.001


def test_demonstrations_are_not_what_it_reads(model):
    ranking = rank_heads(model, TASKS[0], n_shots=3, n_clean=4, n_trials=4)
    assert float(ranking.mean.abs().max()) < 0.05


def test_the_vector_is_what_it_writes(model, probes):
    """Every word's answer follows from it without an instruction, and only in its own task."""
    written = torch.stack([each.vector.vector for each in probes])
    other = torch.cosine_similarity(written[:, None], written[None], dim=-1)
    assert float((other - torch.eye(3)).abs().max()) < 0.05
    assert {each.vector.heads for each in probes} == {(HEAD,)}


def test_nothing_happened(model, probes):
    found = path(model, probes, model)
    assert found.accuracy.eq(1).all()
    assert [verdict.judgement for verdict in verdicts(found)] == ["kept"] * 3
    torch.testing.assert_close(found.similarity(), torch.ones(2, 3))
    assert torch.equal(found.knowledge[0], found.knowledge[1])


def test_a_head_that_no_longer_listens_suppresses_all_tasks(model, probes, folder):
    found = path(model, probes, planted_model(folder, deaf=True))
    for verdict in verdicts(found):
        assert verdict.judgement == "suppressed"
        assert tuple(e.mean for e in (verdict.before, verdict.after, verdict.with_vector)) == (1, 0, 1)
        assert verdict.recovery == 1
        assert verdict.with_random.mean < 0.5
        assert abs(verdict.knowledge.mean) < 0.01
    assert found.distance()[1].min() > 0.5
    assert found.in_context[1].nanmean() < 0.5


def test_what_is_unlearnt_is_overwritten_and_the_rest_kept(model, probes, folder):
    found = path(model, probes, planted_model(folder, forgotten=[1]))
    first, second, third = verdicts(found)
    assert (first.judgement, second.judgement, third.judgement) == ("kept", "overwritten", "kept")
    assert (second.after.mean, second.with_vector.mean) == (0, 0)
    assert second.knowledge.ci_high < -1
    torch.testing.assert_close(found.similarity(), torch.ones(2, 3))


def test_both_at_once(model, probes, folder):
    found = path(model, probes, planted_model(folder, deaf=True, forgotten=[1]))
    assert [verdict.judgement for verdict in verdicts(found)] == ["suppressed", "overwritten", "suppressed"]
