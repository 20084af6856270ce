"""Universal heads: the mean over tasks that the model does, kept in a folder and gone on with."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import toy_task
from scipy import stats

from lens_fv.core.artefact import load_artefact
from lens_fv.errors import LensFVError
from lens_fv.heads import UniversalHeads, rank_heads, universal_heads
from lens_fv.heads.competence import Competence, competence
from lens_fv.tasks import TODD, Task, build_prompts, encode_prompts, split_pairs

SMALL = {
    "n_shots": 2,
    "n_clean": 3,
    "n_trials": 2,
    "template": replace(TODD, query="{input}=", answer="{output}", separator=";"),
}


def asked(model, task):
    split = split_pairs(task, seed=0)
    made = build_prompts(split.validation, split.train, n_shots=2, template=SMALL["template"], seed=0)
    return split.validation, encode_prompts(model, made)


@pytest.fixture(scope="module")
def model(tiny_model):
    """A random model that says letters only."""
    model = tiny_model("phi", fresh=True)
    bias = model.tl.original_model.lm_head.bias.data
    letters = [model.encode(c, bos=False)[0] for c in "abcdefghijklmnopqrstuvwxyz"]
    bias.fill_(-100.0)[letters] = 0.0
    return model


@pytest.fixture(scope="module")
def tasks(model):
    """Three tasks: of two, what the model says is acceptable (demonstrations show another answer), of one it is not."""
    made = []
    for name, n in (("known", 40), ("unknown", 50), ("familiar", 60)):
        task = toy_task(n, name=name)
        said = {}
        if name != "unknown":
            for pair, prompt in zip(*asked(model, task), strict=True):
                token = int(model.forward(torch.tensor([prompt.tokens]))[0, -1].argmax())
                said[pair] = replace(pair, outputs=(pair.output, model.decode(token) + "q"))
        made.append(Task(name, tuple(said.get(pair, pair) for pair in task.pairs)))
    return made


@pytest.fixture
def count(model):
    """How often the first block has run since last asked."""
    calls = []
    handle = model.tl.blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))

    def ask():
        n = len(calls)
        calls.clear()
        return n

    yield ask
    handle.remove()


def test_competence_is_first_token_accuracy_beside_the_commonest_first_token(model, tasks):
    for task, right in zip(tasks, (True, False, True), strict=True):
        _, prompts = asked(model, task)
        tops = [int(model.forward(torch.tensor([p.tokens]))[0, -1].argmax()) for p in prompts]
        hits = [top in p.first_tokens for top, p in zip(tops, prompts, strict=True)]
        best = max(np.mean([token in p.first_tokens for p in prompts]) for token in range(model.d_vocab))
        found = competence(model, task, n_shots=2, template=SMALL["template"])
        assert found.right.tolist() == hits
        assert found.majority == pytest.approx(best)
        assert found.accuracy.mean == pytest.approx(np.mean(hits))
        assert found.beats_majority is right is bool(np.mean(hits) > best)
        assert found.accuracy.ci_low <= found.accuracy.mean <= found.accuracy.ci_high


def test_average_over_the_tasks_that_the_model_does(model, tasks, tmp_path):
    found = universal_heads(model, tasks, metric="logprob", **SMALL)
    assert (found.kept, found.dropped) == (("known", "familiar"), ("unknown",))
    each = [rank_heads(model, task, metric="logprob", **SMALL).mean for task in (tasks[0], tasks[2])]
    torch.testing.assert_close(found.effects, torch.stack(each))
    torch.testing.assert_close(found.mean, (each[0] + each[1]) / 2)
    expected = stats.ttest_1samp(found.effects.numpy(), 0).confidence_interval(0.9)
    torch.testing.assert_close(found.interval(level=0.9), torch.from_numpy(np.stack(expected)).float(), rtol=1e-4, atol=1e-6)
    for row, task in zip(found.rows, tasks, strict=True):
        one = competence(model, task, n_shots=2, template=SMALL["template"])
        assert row == (task.name, one.beats_majority, one.accuracy, one.majority)
    again = load_artefact(found.save(tmp_path / "u.safetensors"))
    assert isinstance(again, UniversalHeads)
    assert again.summary() == found.summary()
    assert again.top(3) == found.top(3)
    assert again.rows == found.rows
    assert "dropped" in repr(again)


def test_groups(model, tasks):
    found = universal_heads(model, tasks[:1], unit="group", **SMALL)
    assert found.unit == "group"
    assert torch.equal(found.interval()[0], found.mean)  # one task says nothing about others
    assert len(found.heads(2)) == 2  # this model shares no keys


def test_goes_on_where_it_was(model, tasks, tmp_path, count):
    first = universal_heads(model, tasks, folder=tmp_path, **SMALL)
    whole = count()
    assert whole > 0
    files = sorted(tmp_path.iterdir())
    assert len(files) == 5  # three accuracies, two rankings
    again = universal_heads(model, tasks, folder=tmp_path, **SMALL)
    assert count() == 0
    assert torch.equal(again.effects, first.effects)
    assert again.rows == first.rows

    (tmp_path / ".known.1234.part").write_bytes(b"half")  # what a killed run may leave
    ranking = next(f for f in files if f.name.startswith("known-HeadRanking"))
    ranking.unlink()
    more = universal_heads(model, tasks, folder=tmp_path, **SMALL)
    part = count()
    rank_heads(model, tasks[0], **SMALL)
    assert 0 < part == count() < whole
    assert torch.equal(more.effects, first.effects)


def test_a_stopped_run_has_kept_what_it_finished(model, tasks, tmp_path, count):
    def stop(*_):
        if any(f.name.startswith("known-HeadRanking") for f in tmp_path.iterdir()):
            raise KeyboardInterrupt

    handle = model.tl.blocks[0].register_forward_pre_hook(stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            universal_heads(model, tasks, folder=tmp_path, **SMALL)
    finally:
        handle.remove()
    count()
    found = universal_heads(model, tasks, folder=tmp_path, **SMALL)
    rest = count()
    assert torch.equal(found.effects, universal_heads(model, tasks, **SMALL).effects)
    assert 0 < rest < count()


def test_other_settings_are_kept_beside(model, tasks, tmp_path, count):
    first = universal_heads(model, tasks[:1], folder=tmp_path, **SMALL)
    count()
    other = universal_heads(model, tasks[:1], folder=tmp_path, metric="logprob", **SMALL)
    assert count() > 0
    assert not torch.equal(other.effects, first.effects)
    assert sum("HeadRanking" in f.name for f in tmp_path.iterdir()) == 2
    assert torch.equal(universal_heads(model, tasks[:1], folder=tmp_path, **SMALL).effects, first.effects)
    assert count() == 0


def test_a_damaged_file_is_named(model, tasks, tmp_path):
    universal_heads(model, tasks[:1], folder=tmp_path, **SMALL)
    file = next(f for f in tmp_path.iterdir() if "HeadRanking" in f.name)
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(LensFVError, match=file.name):
        universal_heads(model, tasks[:1], folder=tmp_path, **SMALL)


def test_accuracy_on_the_first_items(model, tasks, tmp_path):
    with pytest.raises(LensFVError, match="none of the tasks"):
        universal_heads(model, [tasks[1]], max_items=5, folder=tmp_path, **SMALL)
    (file,) = tmp_path.iterdir()
    items = split_pairs(tasks[1], seed=0).validation
    assert len(items) > 5
    few = competence(model, tasks[1], items=items[:5], n_shots=2, template=SMALL["template"])
    assert Competence.load(file).provenance.prompts_hash == few.provenance.prompts_hash
    assert len(few.right) == 5


def test_bad_requests(model, tasks):
    for given, options, said in [
        ([], {}, "0 tasks"),
        ([tasks[0], tasks[0]], {}, "1 names"),
        ([tasks[1]], {}, r"does none of the tasks: unknown 0\.00"),
        (tasks, {"n_shots": 90}, "90 shots"),
    ]:
        with pytest.raises(LensFVError, match=said):
            universal_heads(model, given, **{**SMALL, **options})


def test_competence_round_trip(model, tasks, tmp_path):
    found = competence(model, tasks[0], n_shots=2, template=SMALL["template"])
    again = Competence.load(found.save(tmp_path / "c.safetensors"))
    assert again.right.tolist() == found.right.tolist()
    assert again.summary() == found.summary()
