"""Kinds side by side: each is what its own function makes, chosen on validation alone."""

import pytest
import torch
from helpers import toy_task

from lens_fv.errors import LensFVError
from lens_fv.evaluation import BASELINES, Evaluation, compare_baselines, evaluate
from lens_fv.heads import rank_heads
from lens_fv.patching import score_answers
from lens_fv.tasks import build_prompts, encode_prompts, split_pairs
from lens_fv.vectors import tune
from lens_fv.vectors.baselines import mean_state

FEW = {"n_pairs": 8, "n_shots": 2, "n_clean": 3, "n_trials": 2, "steps": 5}


def test_all_kinds_in_one_table(tiny_model, tmp_path):
    model, task = tiny_model("llama"), toy_task()
    evaluation = compare_baselines(model, task, n_heads=3, **FEW)
    assert evaluation.conditions == ("none", "k_shot", *BASELINES, "random")
    split = split_pairs(task, n_train=8)
    assert {r.top1.n for r in evaluation.results} == {len(split.test)}
    alone = {
        "mean_state": mean_state(model, task, n_shots=2, n_prompts=3, split=split),
        "tuned": tune(model, task, n_pairs=8, steps=5, split=split),
    }
    expected = evaluate(model, task, alone, split=split, n_shots=2)
    for name in expected.conditions:
        at, there = evaluation.conditions.index(name), expected.conditions.index(name)
        torch.testing.assert_close(evaluation.logprob[:, at], expected.logprob[:, there], atol=1e-4, rtol=1e-4)
    shots = encode_prompts(model, build_prompts(split.test, split.train, n_shots=2))
    torch.testing.assert_close(evaluation.logprob[:, 1], score_answers(model, shots, [[]]).logprob[:, 0], atol=1e-4, rtol=1e-4)
    again = Evaluation.load(evaluation.save(tmp_path / "baselines.safetensors"))
    assert again.results == evaluation.results


def test_kinds_are_as_asked(tiny_model):
    """Their order, a ranking made before, and no random vector where there is no vector."""
    model, task = tiny_model("llama"), toy_task()
    ranking = rank_heads(model, task, n_shots=2, n_clean=3, n_trials=2, split=split_pairs(task, n_train=8))
    baselines = ["distributed", "extracted"]
    given, own = (compare_baselines(model, task, baselines=baselines, n_heads=3, ranking=r, **FEW) for r in (ranking, None))
    assert given.conditions == ("none", "k_shot", "distributed", "extracted", "random")
    assert torch.equal(given.logprob, own.logprob)
    assert compare_baselines(model, task, baselines=["lora"], **FEW).conditions == ("none", "k_shot", "lora")


def test_bad_requests(tiny_model):
    model, task = tiny_model("llama"), toy_task()
    with pytest.raises(LensFVError, match=r"baselines=\['loras'\]\): it has to be 'extracted', .*; did you mean 'lora'\?"):
        compare_baselines(model, task, baselines=["loras"])
    with pytest.raises(LensFVError, match="0 baselines: choose from extracted"):
        compare_baselines(model, task, baselines=[])
    with pytest.raises(LensFVError, match="at most 7 shots"):
        compare_baselines(model, task, n_pairs=8, n_shots=8)
