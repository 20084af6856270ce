"""The prediction is the sum of its parts, and is tested on the lists it is about."""

import pytest
import torch
from helpers import toy_task

from lens_fv.errors import LensFVError
from lens_fv.evaluation import compose_lists, evaluate
from lens_fv.tasks import make_list_task, split_pairs
from lens_fv.vectors import tune_many


def test_prediction_is_evaluated_beside_its_parts_and_the_direct_vector(tiny_model):
    model, task, list_tasks = tiny_model("llama"), toy_task(), []

    def make(tasks):
        list_tasks.extend(tasks)
        return tune_many(model, tasks, n_pairs=6, steps=5, layers=1, learning_rate=0.1)

    composition = compose_lists(model, task, make, n_pairs=30, n_shots=2, max_items=5)
    vectors, evaluation = composition.vectors, composition.evaluation
    assert [t.name for t in list_tasks] == ["first-of-3-toy", "first-of-3-copy", "last-of-3-toy", "last-of-3-copy"]
    parts = [vectors[name] for name in ("first_output", "last_copy", "first_copy")]
    torch.testing.assert_close(vectors["predicted"].vector, parts[0].vector + parts[1].vector - parts[2].vector)
    assert [v.provenance.task for v in parts] == ["first-of-3-toy", "last-of-3-copy", "first-of-3-copy"]
    assert vectors["predicted"].provenance.task == "first-of-3-toy + last-of-3-copy - first-of-3-copy"
    assert vectors["direct"].provenance.task == "last-of-3-toy"
    assert evaluation.conditions == (
        *("none", "k_shot", "first_output", "last_copy", "first_copy", "direct", "predicted", "random"),
    )
    target = make_list_task(task, "last", n_pairs=30)
    split = split_pairs(target)
    again = evaluate(model, target, {"predicted": vectors["predicted"]}, split=split, n_shots=2, max_items=5)
    for condition in ("none", "k_shot", "predicted", "random"):
        expected = again[condition].logprob_per_answer.mean
        assert evaluation[condition].logprob_per_answer.mean == pytest.approx(expected, abs=1e-5)


def test_tuned_vectors_are_the_default(tiny_model):
    model = tiny_model("llama")
    composition = compose_lists(model, toy_task(), n_pairs=50, n_shots=1, max_items=2)
    vectors, evaluation = composition.vectors, composition.evaluation
    assert {v.provenance.method for v in vectors.values()} == {"tuned", "combined"}
    assert {v.layer for v in vectors.values()} == {1}
    assert len(evaluation.top1) == 2


def test_too_few_vectors_are_refused(tiny_model):
    with pytest.raises(LensFVError, match="gave 0 vectors for 4 tasks"):
        compose_lists(tiny_model("llama"), toy_task(), lambda tasks: [], n_pairs=30)
