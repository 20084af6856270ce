"""The default model: what the foundation promises of it."""

import pytest
import torch

from lens_fv import evaluate, load_model, load_task, rank_heads, split_pairs, tune, verify
from lens_fv.patching import Edit, run_branches
from lens_fv.tasks import build_prompts, encode_prompts

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def model():
    return load_model("smollm2-135m")


def test_it_can_be_trusted(model):
    findings = verify(model)
    assert all(f.passed for f in findings), [f for f in findings if not f.passed]
    assert model.branch_method in (None, "rows")


def test_engine_equals_loop_on_a_ten_shot_prompt(model):
    split = split_pairs(load_task("present-past"), seed=0)
    prompt = encode_prompts(model, build_prompts(split.validation[:1], split.train, n_shots=10))[0].tokens
    rng = torch.Generator().manual_seed(0)
    branches = [[Edit(layer, torch.randn(model.d_head, generator=rng), head=layer % 9)] for layer in (0, 7, 20, 29)]
    fast, slow = (
        model.unembed(run_branches(model, [prompt], branches, method=method)).softmax(-1) for method in ("rows", "loop")
    )
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=0)


def test_present_past_is_carried_by_head_20_5(model):
    """The head stands above all others, interval and all."""
    top = rank_heads(model, load_task("present-past"), n_clean=25, n_trials=20).top(2)
    assert top[0].name == "20.5"
    assert top[0].low > top[1].high


def test_twenty_pairs_make_a_vector_that_works(model):
    """Present to past, zero-shot, on the test split: from nothing to at least 0.70, and the controls at nothing."""
    task = load_task("present-past")
    split = split_pairs(task, seed=0)
    tuned = tune(model, task, split=split, layer=15, learning_rate=0.1)
    other = tune(model, load_task("country-capital"), layer=15, learning_rate=0.1, steps=20)
    found = evaluate(model, task, {"tuned": tuned}, other=other, split=split, n_shots=5, most_items=59)
    assert found["tuned"].top1 >= 0.70
    assert found["none"].top1 <= 0.05
    assert found["random"].high < found["tuned"].low
    assert found["other_relation"].high < found["tuned"].low
