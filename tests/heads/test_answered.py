"""Only queries that the model answers: chosen as a plain loop chooses them, wherever they are asked."""

from dataclasses import replace

import pytest
import torch
from helpers import toy_task

from lens_fv.cli.output import artefact_printout, queries_used
from lens_fv.errors import LensFVError
from lens_fv.evaluation import Evaluation, compare_baselines, evaluate
from lens_fv.heads import CompetenceConfig, choose_queries, rank_heads, rank_instruction_heads, universal_heads
from lens_fv.heads.competence import Competence
from lens_fv.tasks import TODD, Task, build_prompts, encode_prompts, split_pairs
from lens_fv.vectors import extract, sweep_injection
from lens_fv.vectors.baselines import task_state
from lens_fv.vectors.examples import likeliest
from lens_fv.vectors.options import SCALES

TEMPLATE = replace(TODD, query="{input}=", answer="{output}", separator=";")
SMALL = {"n_shots": 2, "n_clean": 3, "n_trials": 2, "template": TEMPLATE}


def next_tokens(model, split, items, n_shots=2, instruction=None):
    """What the model writes after the demonstrations, token after token of a full forward each."""
    made = build_prompts(items, split.train, n_shots=n_shots, template=TEMPLATE, instruction=instruction, seed=0)
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
    return half_answered(model, toy_task(60, name="half"))


def half_answered(model, task, split=None, **options):
    """The task with an acceptable answer that the model gives to every second query."""
    split, also = split or split_pairs(task), {}
    for items in (split.validation, split.test):
        for pair, token in list(zip(items, next_tokens(model, split, items, **options), strict=True))[::2]:
            also[pair] = replace(pair, outputs=(pair.output, model.decode(token) + "q"))
    return replace(task, pairs=tuple(also.get(pair, pair) for pair in task.pairs))


def answered(model, split, items, **options):
    """Indices, by a loop over every acceptable answer of every query."""
    firsts = [{model.encode(text, bos=False)[0] for text in pair.outputs} for pair in items]
    likeliest_tokens = next_tokens(model, split, items, **options)
    return [i for i, (token, first) in enumerate(zip(likeliest_tokens, firsts, strict=True)) if token in first]


def test_they_are_those_that_a_plain_loop_answers(model, task):
    split = split_pairs(task)
    for items in (split.validation, split.test):
        settings = CompetenceConfig(split=split, items=items, n_shots=2, template=TEMPLATE)
        chosen = choose_queries(model, task, "answered", settings)
        expected = answered(model, split, items)
        assert len(items) // 2 <= len(expected) < len(items)
        assert chosen.recorded == {"queries": "answered", "n_queries": len(expected), "n_items": len(items)}
        assert chosen.of(items) == tuple(items[i] for i in expected)
        all_queries = choose_queries(model, task, "all", settings)
        assert all_queries.of(items) == tuple(items)
        assert all_queries.recorded == {}


def test_a_ranking_asks_them_alone(model, task, tmp_path):
    split = split_pairs(task)
    kept = tuple(split.validation[i] for i in answered(model, split, split.validation))
    ranking = rank_heads(model, task, queries="answered", folder=tmp_path, **SMALL)
    expected = rank_heads(model, task, split=replace(split, validation=kept), **SMALL)
    assert torch.equal(ranking.effects, expected.effects)
    assert torch.equal(ranking.z, expected.z)
    plain = rank_heads(model, task, folder=tmp_path, **SMALL)
    assert not torch.equal(ranking.effects, plain.effects)
    assert "queries" not in plain.provenance.options
    assert ranking.provenance.options["n_queries"] == len(kept)
    assert ranking.summary()["queries"] == f"{len(kept)} of {len(split.validation)}, those answered"
    record = queries_used(ranking)
    assert record == {"selection": "answered", "n_queries": len(kept), "n_items": len(split.validation)}
    note = artefact_printout(ranking).views[-1]
    assert note == f"{len(kept)} of {len(split.validation)} queries: those that the model answers"
    # both are kept, each under its own name, with what was answered
    assert len(list(tmp_path.glob("half-HeadRanking-*"))) == 2
    assert len(list(tmp_path.glob("half-Competence-*"))) == 1
    again = rank_heads(model, task, queries="answered", folder=tmp_path, **SMALL)
    assert torch.equal(again.effects, ranking.effects)
    # the same queries, kept though all were asked, are another ranking: its name says how it was made
    assert expected.provenance.prompts_hash == ranking.provenance.prompts_hash
    assert expected.provenance.options != ranking.provenance.options


def test_a_layer_is_picked_on_them(model, task):
    split = split_pairs(task)
    kept = tuple(split.validation[i] for i in answered(model, split, split.validation))
    ranking = rank_heads(model, task, **SMALL)
    vector = extract(model, task, ranking, n_heads=3, queries="answered", template=TEMPLATE)
    anywhere = vector.at(site="resid_post")
    best = sweep_injection(model, task, anywhere, scales=[1.0], split=replace(split, validation=kept), template=TEMPLATE).best()
    assert vector.layer == best.layer
    layer_record = f"validation log-probability, {len(kept)} answered of {len(split.validation)}"
    assert vector.provenance.options["layer_picked_on"] == layer_record
    # by default as the ranking did
    filtered = rank_heads(model, task, queries="answered", **SMALL)
    assert extract(model, task, filtered, n_heads=3, template=TEMPLATE).provenance.options["layer_picked_on"] == layer_record
    plain = extract(model, task, filtered, n_heads=3, queries="all", template=TEMPLATE)
    assert plain.provenance.options["layer_picked_on"] == "validation log-probability"


@pytest.mark.parametrize("prompts", ["zero_shot", "shuffled"])
def test_an_evaluation_scores_them_alone(model, task, prompts, tmp_path):
    split = split_pairs(task)
    vector = extract(model, task, rank_heads(model, task, **SMALL), n_heads=3, layer=1, template=TEMPLATE)
    options = {"n_shots": 2, "template": TEMPLATE, "prompts": prompts}
    of_all = evaluate(model, task, {"extracted": vector}, **options)
    of_answered = evaluate(model, task, {"extracted": vector}, queries="answered", **options)
    rows = answered(model, split, split.test)
    for name in ("top1", "top3", "exact_match"):
        assert torch.equal(getattr(of_answered, name), getattr(of_all, name)[rows]), name
    torch.testing.assert_close(of_answered.logprob, of_all.logprob[rows], atol=1e-4, rtol=1e-4)
    assert of_answered["k_shot"].top1[::3] == (1.0, len(rows))
    assert of_all["k_shot"].top1.mean == len(rows) / len(split.test)
    again = Evaluation.load(of_answered.save(tmp_path / "e.safetensors"))
    assert again.summary()["queries"] == f"{len(rows)} of {len(split.test)}, those answered"


@pytest.mark.parametrize("n_shots", [0, 1])
def test_instructed_heads_are_ranked_on_what_is_answered_with_the_instructions(model, n_shots, tmp_path):
    given = {"n_shots": n_shots, "instruction": ("say", "write")}
    task = half_answered(model, replace(toy_task(60), instructions=("say", "write")), **given)
    split = split_pairs(task)
    rows = answered(model, split, split.validation, **given)
    assert rows != answered(model, split, split.validation)
    assert 0 < len(rows) < len(split.validation)
    kept = replace(split, validation=tuple(split.validation[i] for i in rows))
    options = {**SMALL, "n_shots": n_shots, "counterpart": "none"}
    ranking = rank_instruction_heads(model, task, queries="answered", folder=tmp_path, **options)
    expected = rank_instruction_heads(model, task, split=kept, **options)
    assert torch.equal(ranking.effects, expected.effects)
    assert torch.equal(ranking.z, expected.z)
    noted = {"queries": "answered", "n_queries": len(rows), "n_items": len(split.validation)}
    assert ranking.provenance.options == {**expected.provenance.options, **noted}
    assert len(list(tmp_path.glob("*-Competence-*"))) == 1
    # the layer, too, is picked on them, and on all where that is asked
    vector = extract(model, task, ranking, n_heads=3, template=TEMPLATE)
    layer_record = f"validation log-probability, {len(rows)} answered of {len(split.validation)}"
    assert vector.provenance.options["layer_picked_on"] == layer_record
    swept = sweep_injection(model, task, vector.at(site="resid_post"), scales=[1.0], split=kept, template=TEMPLATE)
    assert vector.layer == swept.best().layer
    plain = extract(model, task, ranking, n_heads=3, queries="all", template=TEMPLATE)
    assert plain.provenance.options["layer_picked_on"] == "validation log-probability"


def test_universal_heads_ask_them_alone_and_count_them_over_tasks(model):
    tasks = [half_answered(model, toy_task(n, name=f"of {n}")) for n in (60, 80)]
    universal = universal_heads(model, tasks, queries="answered", **SMALL)
    rankings = [rank_heads(model, task, queries="answered", **SMALL) for task in tasks]
    assert universal.kept == ("of 60", "of 80")
    assert torch.equal(universal.effects, torch.stack([r.mean for r in rankings]))
    splits = [split_pairs(task) for task in tasks]
    kept, n = (sum(counts) for counts in zip(*((len(answered(model, s, s.validation)), len(s.validation)) for s in splits)))
    assert queries_used(universal) == {"selection": "answered", "n_queries": kept, "n_items": n}
    assert universal.summary()["queries"] == f"{kept} of {n}, those answered"
    plain = universal_heads(model, tasks, **SMALL)
    assert not torch.equal(universal.effects, plain.effects)
    assert not {"queries", "n_queries", "n_items"} & plain.provenance.options.keys()


def test_kinds_are_compared_on_them_alone(model):
    """As they would be on a split that has no other pairs."""
    first = toy_task(60)
    task = half_answered(model, first, split_pairs(first, n_train=8))
    split = split_pairs(task, n_train=8)
    rows = answered(model, split, split.test)
    kept = {
        part: tuple(getattr(split, part)[i] for i in answered(model, split, getattr(split, part)))
        for part in ("validation", "test")
    }
    options = {"baselines": ["extracted", "task_state"], "n_pairs": 8, "n_heads": 3, **SMALL}
    comparison = compare_baselines(model, task, queries="answered", **options)
    chosen = replace(split, validation=kept["validation"])
    ranking = rank_heads(model, task, split=chosen, **SMALL)
    vector = extract(model, task, ranking, n_heads=3, layer=0, split=chosen, template=TEMPLATE)
    everywhere = [vector.at(layer=at, scale=s) for at in range(model.n_layers) for s in SCALES]
    vectors = {
        "extracted": likeliest(model, everywhere, chosen, TEMPLATE),
        "task_state": task_state(model, task, n_shots=2, split=chosen, template=TEMPLATE),
    }
    of_all = evaluate(model, task, vectors, split=split, n_shots=2, template=TEMPLATE)
    assert comparison.conditions == of_all.conditions
    torch.testing.assert_close(comparison.logprob, of_all.logprob[rows], atol=1e-4, rtol=1e-4)
    assert comparison["k_shot"].top1.mean == 1.0
    assert queries_used(comparison) == {"selection": "answered", "n_queries": len(rows), "n_items": len(split.test)}
    assert "queries" not in compare_baselines(model, task, **options).provenance.options


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
