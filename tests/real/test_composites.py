"""Composites on the default model: known relations are recognised and completed from one pair."""

import pytest

from lens_fv import Tuned, build_library, compose, evaluate_analogies, load_model, load_task, make_analogies, split_pairs

pytestmark = pytest.mark.real
NAMES = ("antonym", "country-capital", "present-past", "singular-plural")


@pytest.fixture(scope="module")
def model():
    return load_model("smollm2-135m")


@pytest.fixture(scope="module")
def library(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("library")
    return build_library(model, [load_task(name) for name in NAMES], folder, Tuned(steps=16, learning_rate=0.1))


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
        analogies += make_analogies(task, split.train, split.test, n=12)
    found = evaluate_analogies(model, library, analogies, leave_own_out=False)
    composite = found.result("composite")
    for control in ("none", "other_source", "random_basis", "random"):
        row = found.result(control)
        assert composite.low > row.high, (composite, row)
        assert composite.logprob_low > row.logprob_high
