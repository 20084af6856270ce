"""The default model: what the foundation promises of it."""

import pytest
import torch

from lens_fv import load_task, split_pairs, verify
from lens_fv.patching import Edit, run_branches
from lens_fv.tasks import build_prompts, encode_prompts

pytestmark = pytest.mark.real


def test_it_can_be_trusted(model):
    findings = verify(model)
    assert all(f.passed for f in findings), [f for f in findings if not f.passed]
    assert model.branch_backend in (None, "rows")


def test_engine_equals_loop_on_a_ten_shot_prompt(model):
    split = split_pairs(load_task("present-past"), seed=0)
    prompt = encode_prompts(model, build_prompts(split.validation[:1], split.train, n_shots=10))[0].tokens
    rng = torch.Generator().manual_seed(0)
    branches = [[Edit(layer, torch.randn(model.d_head, generator=rng), head=layer % 9)] for layer in (0, 7, 20, 29)]
    fast, slow = (
        model.unembed(run_branches(model, [prompt], branches, backend=backend)).softmax(-1) for backend in ("rows", "loop")
    )
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=0)
