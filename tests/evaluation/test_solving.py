"""Analogies solved: every number against the plain loop."""

import math
from collections import Counter

import pytest
import torch
from helpers import toy_task

from lens_fv.composition import TuneRecipe, build_library, fit_map, relation_scores
from lens_fv.core.statistics import choice_shares, estimate
from lens_fv.errors import LensFVError
from lens_fv.evaluation import AnalogyEvaluation, evaluate_analogies, load_artefact
from lens_fv.tasks import Analogy, Pair, encode_prompts, few_shot, make_analogies, zero_shot

SHOWN = ("one_shot", "one_shot_composite")
CONDITIONS = ("none", "mean", "best", "composite", "matched", "other_source", "random_basis", "random", *SHOWN)


@pytest.fixture(scope="module")
def library(request, tmp_path_factory):
    model = request.getfixturevalue("tiny_model")("llama")
    tasks = [toy_task(name=f"toy{i}", n=30 + i) for i in range(4)]
    return build_library(model, tasks, tmp_path_factory.mktemp("library"), TuneRecipe(n_pairs=6, steps=3, learning_rate=0.1))


@pytest.fixture(scope="module")
def analogies():
    first, second = toy_task(name="toy0", n=30), toy_task(name="new", n=30)
    with_choices = make_analogies(first, first.pairs[:8], first.pairs[10:14], n_choices=3)
    return [*with_choices, *make_analogies(second, second.pairs[15:20], second.pairs[20:23], n_choices=0)]


def score_by_hand(model, prompt, answer, layer=0, vector=None):
    """Rank of the answer's first token, whether greedy decoding writes it, mean log-probability of its tokens."""
    last = len(prompt) - 1

    def add(x, hook):
        x = x.clone()
        x[:, last] += vector
        return x

    hooks = [] if vector is None else [(f"blocks.{layer}.hook_resid_post", add)]
    logits = model.forward(torch.tensor([[*prompt, *answer[:-1]]]), hooks)[0, last:]
    logprobs = logits.log_softmax(-1)
    ranks = [int((logits[i] > logits[i, token]).sum()) for i, token in enumerate(answer)]
    return ranks[0], not any(ranks), sum(float(logprobs[i, t]) for i, t in enumerate(answer)) / len(answer)


def test_all_conditions_against_the_plain_loop(tiny_model, library, analogies):
    model = tiny_model("llama")
    evaluation = evaluate_analogies(model, library, analogies)
    assert evaluation.conditions == CONDITIONS
    basis = library.basis(model)
    for i, analogy in enumerate(analogies):
        own = torch.tensor([name == analogy.relation for name in basis.names])
        scores = relation_scores(model, basis, [analogy.source])[0]
        weights = (3.0 * scores).masked_fill(own, -torch.inf).softmax(0)
        torch.testing.assert_close(evaluation.weights[i], weights, atol=1e-4, rtol=1e-3)
        best = basis.vectors[scores.masked_fill(own, -torch.inf).argmax()]
        vectors = {"none": None, "mean": basis.vectors[~own].mean(0), "best": best, "composite": weights @ basis.vectors}
        vectors |= {"matched": vectors["composite"] * best.norm() / vectors["composite"].norm()}
        vectors |= {"one_shot": None, "one_shot_composite": vectors["composite"]}
        for condition in vectors:
            rows = []
            for stem, answer in [(analogy.c, d) for d in analogy.d] + list(analogy.candidates):
                pair = Pair(stem, (answer,))
                prompt = few_shot(pair, [analogy.source]) if condition in SHOWN else zero_shot(pair)
                (encoded,) = encode_prompts(model, [prompt])
                rows.append(score_by_hand(model, encoded.tokens, encoded.answers[0], basis.layer, vectors[condition]))
            column = evaluation.column(condition)
            answers, choices = rows[: len(analogy.d)], rows[len(analogy.d) :]
            assert bool(evaluation.top1[i, column]) == any(rank == 0 for rank, _, _ in answers)
            assert bool(evaluation.exact_match[i, column]) == any(full for _, full, _ in answers)
            assert float(evaluation.logprob[i, column]) == pytest.approx(max(logprob for _, _, logprob in answers), abs=1e-3)
            if choices:
                won = max(range(len(choices)), key=lambda c: choices[c][2])
                assert float(evaluation.choice[i, column]) == (analogy.candidates[won] == (analogy.c, analogy.d[0]))


def test_a_tie_of_choices_counts_its_share(tiny_model, library):
    """Without a vector nothing tells choices apart but what they have without one: chance, wherever the right one stands."""
    model, choices = tiny_model("llama"), ("xa", "yb", "zc", "wd")
    problems = [Analogy("a", "b", "c", (right,), choices=(right, *(c for c in choices if c != right))) for right in choices]
    problems += [Analogy("a", "b", "c", (choices[0],), choices=choices[1:] + choices[:1])]
    evaluation = evaluate_analogies(model, library, problems)
    column = evaluation.column("none")
    assert evaluation.calibrated[:, column].tolist() == [0.25] * 5
    assert evaluation.result("none").calibrated_mc_accuracy == 0.25
    assert sorted(evaluation.choice[:4, column].tolist()) == [0, 0, 0, 1]
    assert choice_shares(torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 2.0], [0.0, 1.0, 2.0]]), 0).tolist() == [0.5, 0.5, 0]


def test_controls_are_of_the_size_of_what_they_control(tiny_model, library, analogies):
    model = tiny_model("llama")
    one, two, other = (evaluate_analogies(model, library, analogies, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.logprob, two.logprob)
    column = one.column("random")
    assert not torch.equal(one.logprob[:, column], other.logprob[:, column])
    same = [one.column(c) for c in CONDITIONS if "random" not in c]
    assert torch.equal(one.logprob[:, same], other.logprob[:, same])


def test_a_relation_may_use_its_own_vector(tiny_model, library, analogies):
    model, own = tiny_model("llama"), library.names.index("toy0")
    without, with_it = (evaluate_analogies(model, library, analogies, exclude_own_relation=out) for out in (True, False))
    assert without.weights[:4, own].eq(0).all()
    assert without.weights[4:, own].gt(0).all()
    assert with_it.weights[:, own].gt(0).all()


def test_results_count_what_is_there(tiny_model, library, analogies, tmp_path):
    model = tiny_model("llama")
    fitted = fit_map(model, library, analogies[:4], analogies[4:], form="temperature", epochs=1)
    evaluation = evaluate_analogies(model, library, analogies, maps={"fitted": fitted})
    assert evaluation.conditions == (*CONDITIONS[:4], "fitted", *CONDITIONS[4:], "one_shot_fitted")
    row = evaluation.result("composite")
    assert (row.top1.n, row.n_choice) == (7, 4)
    column = evaluation.column("composite")
    assert row.top1.mean == pytest.approx(float(evaluation.top1[:, column].float().mean()))
    assert row.exact_match.mean == pytest.approx(float(evaluation.exact_match[:, column].float().mean()))
    assert row.mc_accuracy.mean == pytest.approx(float(evaluation.choice[:4, column].float().mean()))
    assert row.calibrated_mc_accuracy == pytest.approx(float(evaluation.calibrated[:4, column].float().mean()))
    assert all(e.ci_low <= e.mean <= e.ci_high for e in (row.top1, row.mc_accuracy, row.logprob_per_token))
    paired = (evaluation.logprob[:, column] - evaluation.logprob[:, evaluation.column("one_shot")]).tolist()
    assert evaluation.difference("composite", measure="logprob") == estimate(paired)
    own = evaluation.by_relation()
    assert {name: int(among.sum()) for name, among in own.items()} == Counter(a.relation for a in analogies)
    first = evaluation.relations[0]
    some = [value for value, name in zip(paired, evaluation.relations, strict=True) if name == first]
    assert evaluation.difference("composite", measure="logprob", mask=own[first]) == estimate(some)
    assert evaluation.difference("one_shot").mean == 0
    with pytest.raises(LensFVError, match="scores of 'few_shot': no such condition; there are none, mean"):
        evaluation.difference("composite", "few_shot")
    assert 0 < int(evaluation.far().sum()) < 7
    assert evaluation.result("composite", mask=evaluation.far()).top1.n == int(evaluation.far().sum())
    assert math.isnan(evaluation.result("composite", mask=~evaluation.has_choices).mc_accuracy.mean)
    with pytest.raises(LensFVError, match="none is left"):
        evaluation.result("composite", mask=torch.zeros(7, dtype=torch.bool))
    again = load_artefact(evaluation.save(tmp_path / "a.safetensors"))
    assert isinstance(again, AnalogyEvaluation)
    assert str(again.results) == str(evaluation.results)


def test_weights_of_several_pairs_are_those_of_their_mean_scores(tiny_model, library, analogies):
    model, more = tiny_model("llama"), [Pair("ba", ("mi",)), Pair("ko", ("tu", "lo"))]
    alone = evaluate_analogies(model, library, analogies, sources=[[a.source] for a in analogies])
    assert torch.equal(alone.logprob, evaluate_analogies(model, library, analogies).logprob)
    evaluation = evaluate_analogies(model, library, analogies, sources=[[a.source, *more] for a in analogies])
    basis = library.basis(model)
    for i, analogy in enumerate(analogies):
        own = torch.tensor([name == analogy.relation for name in basis.names])
        scores = relation_scores(model, basis, [analogy.source, *more]).mean(0)
        weights = (3.0 * scores).masked_fill(own, -torch.inf).softmax(0)
        torch.testing.assert_close(evaluation.weights[i], weights, atol=1e-4, rtol=1e-3)
        rows = {"few_shot": None, "few_shot_composite": weights @ basis.vectors}
        for condition, vector in rows.items():
            prompts = [few_shot(Pair(analogy.c, (d,)), [analogy.source, *more]) for d in analogy.d]
            encoded = encode_prompts(model, prompts)
            best = max(score_by_hand(model, e.tokens, e.answers[0], basis.layer, vector)[2] for e in encoded)
            assert float(evaluation.logprob[i, evaluation.column(condition)]) == pytest.approx(best, abs=1e-3)


def test_nothing_to_solve(tiny_model, library, analogies):
    with pytest.raises(LensFVError, match="there are none"):
        evaluate_analogies(tiny_model("llama"), library, [])
    with pytest.raises(LensFVError, match="7 analogies: source pairs are given for 1 of them"):
        evaluate_analogies(tiny_model("llama"), library, analogies, sources=[[analogies[0].source]])
    with pytest.raises(LensFVError, match="source pairs are given for 6 of them"):
        evaluate_analogies(tiny_model("llama"), library, analogies, sources=[[], *([a.source] for a in analogies[1:])])


def test_an_answer_without_choices_counts_once(tiny_model, library):
    evaluation = evaluate_analogies(tiny_model("llama"), library, [Analogy("a", "b", "c", ("d", "e"))])
    assert evaluation.result("none").n_choice == 0
    assert evaluation.top1.shape == (1, len(CONDITIONS))
