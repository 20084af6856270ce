"""Only queries that the model answers: chosen as a plain loop chooses them, wherever they are asked."""

from dataclasses import replace

import pytest
import torch
from helpers import toy_task

from lens_fv.cli.heads import asked_line, asked_of
from lens_fv.errors import LensFVError
from lens_fv.evaluation import Evaluation, evaluate
from lens_fv.heads import choose_queries, rank_heads
from lens_fv.heads.competence import Competence
from lens_fv.tasks import TODD, Task, build_prompts, encode_prompts, split_pairs
from lens_fv.vectors import extract, sweep_injection

TEMPLATE = replace(TODD, query="{input}=", answer="{output}", separator=";")
SMALL = {"n_shots": 2, "n_clean": 3, "n_trials": 2, "template": TEMPLATE}


def says(model, split, items):
    """What the model writes after two demonstrations, token after token of a full forward each."""
    made = build_prompts(items, split.train, n_shots=2, template=TEMPLATE, seed=0)
    return [int(model.forward(torch.tensor([p.tokens]))[0, -1].argmax()) for p in encode_prompts(model, made)]


@pytest.fixture(scope="module")
def model(tiny_model):
    """A random model that says letters only."""
    model = tiny_model("phi", fresh=True)
    bias = model.tl.original_model.lm_head.bias.data
    letters = [model.encode(c, bos=False)[0] for c in "abcdefghijklmnopqrstuvwxyz"]
    bias.fill_(-100.0)[letters] = 0.0
    return model


@pytest.fixture(scope="module")
def task(model):
    """Of every second query what the model says is acceptable."""
    task = toy_task(60)
    split, also = split_pairs(task), {}
    for items in (split.validation, split.test):
        for pair, token in list(zip(items, says(model, split, items), strict=True))[::2]:
            also[pair] = replace(pair, outputs=(pair.output, model.decode(token) + "q"))
    return Task("half", tuple(also.get(pair, pair) for pair in task.pairs))


def answered(model, split, items):
    """Indices, by a loop over every acceptable answer of every query."""
    firsts = [{model.encode(text, bos=False)[0] for text in pair.outputs} for pair in items]
    return [i for i, (token, first) in enumerate(zip(says(model, split, items), firsts, strict=True)) if token in first]


def test_they_are_those_that_a_plain_loop_answers(model, task):
    split = split_pairs(task)
    for items in (split.validation, split.test):
        asked = choose_queries(model, task, items, "answered", split=split, n_shots=2, template=TEMPLATE)
        expected = answered(model, split, items)
        assert len(items) // 2 <= len(expected) < len(items)
        assert list(asked.kept) == expected
        assert asked.noted == {"queries": "answered", "n_queries": len(expected), "n_items": len(items)}
        assert asked.of(items) == tuple(items[i] for i in expected)
        every = choose_queries(model, task, items, "all", split=split, n_shots=2, template=TEMPLATE)
        assert every == (tuple(range(len(items))), {})


def test_a_ranking_asks_them_alone(model, task, tmp_path):
    split = split_pairs(task)
    kept = tuple(split.validation[i] for i in answered(model, split, split.validation))
    found = rank_heads(model, task, queries="answered", folder=tmp_path, **SMALL)
    expected = rank_heads(model, task, split=replace(split, validation=kept), **SMALL)
    assert torch.equal(found.effects, expected.effects)
    assert torch.equal(found.z, expected.z)
    plain = rank_heads(model, task, folder=tmp_path, **SMALL)
    assert not torch.equal(found.effects, plain.effects)
    assert "queries" not in plain.provenance.options
    assert found.provenance.options["n_queries"] == len(kept)
    assert found.facts()["queries"] == f"{len(kept)} of {len(split.validation)}, those answered"
    said = asked_of(found.provenance.options)
    assert said == {"asked": "answered", "n_queries": len(kept), "n_items": len(split.validation)}
    assert asked_line(found.provenance.options) == [
        f"asked {len(kept)} of {len(split.validation)} queries: those that it answers"
    ]
    # both are kept, each under its own name, with what was answered
    assert len(list(tmp_path.glob("half-HeadRanking-*"))) == 2
    assert len(list(tmp_path.glob("half-Competence-*"))) == 1
    again = rank_heads(model, task, queries="answered", folder=tmp_path, **SMALL)
    assert torch.equal(again.effects, found.effects)
    # the same queries, kept though all were asked, are another ranking: its name says how it was made
    assert expected.provenance.prompts_hash == found.provenance.prompts_hash
    assert expected.provenance.options != found.provenance.options


def test_a_layer_is_picked_on_them(model, task):
    split = split_pairs(task)
    kept = tuple(split.validation[i] for i in answered(model, split, split.validation))
    ranking = rank_heads(model, task, **SMALL)
    vector = extract(model, task, ranking, n_heads=3, queries="answered", template=TEMPLATE)
    anywhere = vector.at(site="resid_post")
    best = sweep_injection(model, task, anywhere, scales=[1.0], split=replace(split, validation=kept), template=TEMPLATE).best()
    assert vector.layer == best.layer
    said = f"validation log-probability, {len(kept)} answered of {len(split.validation)}"
    assert vector.provenance.options["layer_picked_on"] == said
    # by default as the ranking did
    filtered = rank_heads(model, task, queries="answered", **SMALL)
    assert extract(model, task, filtered, n_heads=3, template=TEMPLATE).provenance.options["layer_picked_on"] == said
    plain = extract(model, task, filtered, n_heads=3, queries="all", template=TEMPLATE)
    assert plain.provenance.options["layer_picked_on"] == "validation log-probability"


@pytest.mark.parametrize("prompts", ["zero_shot", "shuffled"])
def test_an_evaluation_scores_them_alone(model, task, prompts, tmp_path):
    split = split_pairs(task)
    vector = extract(model, task, rank_heads(model, task, **SMALL), n_heads=3, layer=1, template=TEMPLATE)
    options = {"n_shots": 2, "template": TEMPLATE, "prompts": prompts}
    every = evaluate(model, task, {"extracted": vector}, **options)
    found = evaluate(model, task, {"extracted": vector}, queries="answered", **options)
    rows = answered(model, split, split.test)
    for name in ("top1", "top3", "full"):
        assert torch.equal(getattr(found, name), getattr(every, name)[rows]), name
    torch.testing.assert_close(found.logprob, every.logprob[rows], atol=1e-4, rtol=1e-4)
    assert (found["k_shot"].top1, found["k_shot"].n) == (1.0, len(rows))
    assert every["k_shot"].top1 == len(rows) / len(split.test)
    again = Evaluation.load(found.save(tmp_path / "e.safetensors"))
    assert again.facts()["queries"] == f"{len(rows)} of {len(split.test)}, those answered"


def test_none_left_or_no_such_choice_is_an_error(model, tmp_path):
    unknown = Task("unknown", tuple(replace(pair, outputs=("0",)) for pair in toy_task(60).pairs))
    split = split_pairs(unknown)
    message = f"after 2 demonstrations it answers none of {len(split.validation)} queries"
    with pytest.raises(LensFVError, match=message):
        rank_heads(model, unknown, queries="answered", folder=tmp_path, **SMALL)
    with pytest.raises(LensFVError, match=f"answers none of {len(split.test)} queries"):
        evaluate(model, unknown, queries="answered", n_shots=2, template=TEMPLATE)
    with pytest.raises(LensFVError, match=r"rank_heads\(queries='answerd'\).*did you mean 'answered'"):
        rank_heads(model, unknown, queries="answerd", **SMALL)
    (file,) = tmp_path.iterdir()
    assert not Competence.load(file).right.any()
