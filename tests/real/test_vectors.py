"""Tuned vectors of the default model do their tasks, and their composites recognise and complete relations from one pair."""

import pytest

from lens_fv import build_library, compose, evaluate, evaluate_analogies, load_task, make_analogies, split_pairs, tune
from lens_fv.composition import TuneRecipe

pytestmark = pytest.mark.real
NAMES = ("antonym", "country-capital", "present-past")


@pytest.fixture(scope="module")
def library(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("library")
    return build_library(
        model, [load_task(name) for name in NAMES], folder, TuneRecipe(n_pairs=10, steps=10, learning_rate=0.1)
    )


def test_twenty_pairs_make_a_vector_that_works(model, library):
    """Present to past, zero-shot, on the test split: from nothing to at least 0.70, and the controls at nothing."""
    task = load_task("present-past")
    split = split_pairs(task, seed=0)
    tuned = tune(model, task, split=split, layers=15, learning_rate=0.1, steps=16)
    other = library["country-capital"]
    found = evaluate(model, task, {"tuned": tuned}, other=other, split=split, n_shots=1, max_items=40)
    assert found["tuned"].top1.mean >= 0.70
    assert found["none"].top1.mean <= 0.05
    assert found["random"].top1.ci_high < found["tuned"].top1.ci_low
    assert found["other_relation"].top1.ci_high < found["tuned"].top1.ci_low


def test_a_pair_is_recognised_as_its_relation(model, library):
    for name in NAMES:
        split = split_pairs(load_task(name), seed=0)
        tops = [compose(model, library, pair).top(1)[0][0] for pair in split.test[:6]]
        assert tops.count(name) >= 5, (name, tops)


def test_composites_complete_what_nothing_else_does(model, library):
    """Far above the plain prompt and the controls, intervals and all; the relations' own vectors take part."""
    analogies = []
    for name in NAMES:
        task = load_task(name)
        split = split_pairs(task, seed=0)
        analogies += make_analogies(task, split.train, split.test, n=6)
    found = evaluate_analogies(model, library, analogies, exclude_own_relation=False)
    composite = found.result("composite")
    for control in ("none", "other_source", "random_basis", "random"):
        row = found.result(control)
        assert composite.top1.ci_low > row.top1.ci_high, (composite, row)
        assert composite.logprob_per_token.ci_low > row.logprob_per_token.ci_high
