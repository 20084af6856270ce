"""Sums of vectors, against plain sums of tensors."""

from dataclasses import replace

import pytest
import torch
from helpers import toy_task

from lens_fv.errors import LensFVError
from lens_fv.evaluation import evaluate
from lens_fv.heads import rank_heads
from lens_fv.patching import run_branches
from lens_fv.vectors import FunctionVector, combine, extract, interpolate, random_like


@pytest.fixture(scope="module")
def three(tiny_model):
    """A model, and vectors of three tasks at layer 1, one of them scaled."""
    model = tiny_model("llama")
    vectors = []
    for name, seed in (("one", 0), ("two", 1), ("three", 2)):
        task = toy_task(name=name)
        ranking = rank_heads(model, task, n_shots=2, n_clean=4, n_trials=3, seed=seed)
        vectors.append(extract(model, task, ranking, n_heads=3, layer=1))
    return model, vectors[0], vectors[1].at(scale=2.0), vectors[2]


def test_operators_are_sums_of_what_is_added(three):
    _, a, b, c = three
    va, vb, vc = (v.vector * v.scale for v in (a, b, c))
    for combination, expected in [
        (a + b, va + vb),
        (a - b, va - vb),
        (-b, -vb),
        (3 * a, 3 * va),
        (b * 0.5, vb / 2),
        (b / 4, vb / 4),
        (a + b - c, va + vb - vc),
        (interpolate(a, b, 0.25), 0.75 * va + 0.25 * vb),
        (combine([a, b, c], [1.0, -2.0, 0.5]), va - 2 * vb + 0.5 * vc),
    ]:
        torch.testing.assert_close(combination.vector, expected)
        assert (combination.layer, combination.site, combination.scale, combination.heads) == (1, "resid_post", 1.0, ())
    assert (a - b).resid_norm == pytest.approx((a.resid_norm + b.resid_norm) / 2)
    with pytest.raises(TypeError):
        a + 1


def test_applying_a_sum_is_applying_its_terms(three):
    """The engine, given the sum, against the engine given the terms one after the other."""
    model, a, b, _ = three
    prompts = [[3, 1, 4, 1, 5]]
    at_once, apart = run_branches(model, prompts, [(a - b).edits(), [*a.edits(), *b.at(scale=-2.0).edits()]])[0]
    torch.testing.assert_close(at_once, apart, atol=1e-5, rtol=1e-4)
    task = toy_task()
    evaluation = evaluate(model, task, {"double": 2 * a, "scaled": a.at(scale=2.0), "nothing": a - a}, n_shots=2)
    torch.testing.assert_close(evaluation.logprob[:, 2], evaluation.logprob[:, 3], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(evaluation.logprob[:, 4], evaluation.logprob[:, 0], atol=1e-5, rtol=1e-4)


def test_terms_are_listed_flat_and_kept_in_the_file(three, tmp_path):
    _, a, b, c = three
    combination = 0.5 * (a + b) - (c - 4 * a)
    terms = combination.provenance.options["terms"]
    assert [(t["weight"], t["task"], t["seed"]) for t in terms] == [
        (0.5, "one", 0),
        (1.0, "two", 1),  # its scale is 2
        (-1.0, "three", 2),
        (4.0, "one", 0),
    ]
    assert {t["method"] for t in terms} == {"extracted"}
    assert [t["task_hash"] for t in terms] == [v.provenance.task_hash for v in (a, b, c, a)]
    assert combination.provenance.task == "0.5 one + two - three + 4 one"
    assert combination.provenance.method == "combined"
    again = FunctionVector.load(combination.save(tmp_path / "sum.safetensors"))
    assert again.provenance == combination.provenance
    assert [t["weight"] for t in (again.at(scale=3.0) - a).provenance.options["terms"]] == [1.5, 3.0, -3.0, 12.0, -1.0]


def test_a_vector_made_from_a_sum_is_a_term_of_its_own(three):
    _, a, b, _ = three
    control = random_like(a + b)
    assert [t["method"] for t in (control + a).provenance.options["terms"]] == ["random", "extracted"]


def test_what_cannot_be_added_is_refused(three, tiny_model):
    _, a, b, _ = three
    elsewhere = replace(a, provenance=replace(a.provenance, model="other"))
    other_basis = replace(a, provenance=replace(a.provenance, weight_processing="compat"))
    for vectors, weights, message in [
        ([], [], "one weight a vector"),
        ([a, b], [1.0], "one weight a vector"),
        ([a], [float("nan")], r"weights=\[nan\]\): it has to be a finite number"),
        ([b, elsewhere], [1.0, 1.0], "their models are tiny-llama and other"),
        ([b, other_basis], [1.0, 1.0], "weight processings are raw and compat"),
        ([a, b.at(layer=2)], [1.0, 1.0], r"layers 1, 2: say where the sum goes with layer="),
        ([a, b.at(site="heads")], [1.0, 1.0], "injected at its heads"),
    ]:
        with pytest.raises(LensFVError, match=message):
            combine(vectors, weights)


def test_vectors_of_several_layers_need_a_place(three):
    _, a, b, _ = three
    moved = replace(b, layer=2, resid_norm=7.0)
    combination = combine([a, moved], [1.0, 1.0], layer=2)
    assert (combination.layer, combination.resid_norm) == (2, 7.0)
    assert [t["layer"] for t in combination.provenance.options["terms"]] == [1, 2]
    assert combine([a, moved], [1.0, 1.0], layer=0).resid_norm == pytest.approx((a.resid_norm + 7.0) / 2)
    with pytest.raises(LensFVError, match=r"after layer [0-9]+: its model has layers 0 to 2"):
        combine([a], [1.0], layer=9)
