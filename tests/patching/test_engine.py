"""The one-pass engine against the plain loop, on every architecture family."""

import pytest
import torch

from lens_fv.errors import LensFVError
from lens_fv.patching import Branch, Edit, check_engine, plan_branches, run_branches


def tokens(n: int, seed: int, vocab: int = 320) -> list[int]:
    return torch.randint(1, vocab, (n,), generator=torch.Generator().manual_seed(seed)).tolist()


def edits(model) -> list[list[Edit]]:
    rng = torch.Generator().manual_seed(3)
    heads = [
        [Edit(layer, torch.randn(model.d_head, generator=rng), head=head)]
        for layer in range(model.n_layers)
        for head in range(model.n_heads)
    ]
    layers = [
        [Edit(layer, torch.randn(model.d_model, generator=rng), mode=mode)]
        for layer in range(model.n_layers)
        for mode in ("add", "replace")
    ]
    several = [Edit(2, torch.randn(model.d_head, generator=rng), head=1, mode="add"), *heads[0], *layers[2]]
    return [[], *heads, *layers, several]


def test_rows_equal_loop(any_model):
    """Prompts of several lengths (longer than the short windows), answers of several tokens, every kind of edit."""
    prompts = [tokens(17, 0), tokens(9, 1), tokens(1, 2)]
    answers = (tuple(tokens(2, 3)), (7,), tuple(tokens(3, 4)))
    branches = [Branch(tuple(made), tokens=answers) for made in edits(any_model)]
    fast = run_branches(any_model, prompts, branches)
    slow = run_branches(any_model, prompts, branches, method="loop")
    for got, want, answer in zip(fast, slow, answers, strict=True):
        torch.testing.assert_close(got[:, : len(answer)], want[:, : len(answer)], atol=2e-4, rtol=2e-4)


def test_every_family_takes_the_fast_path(any_model):
    check = check_engine(any_model)
    assert check.method in ("rows", "masked"), check.reason
    assert check.max_abs_error < 1e-5


def test_unedited_branch_is_the_models_own_forward(any_model):
    prompt = tokens(13, 5)
    resid = run_branches(any_model, [prompt], [[]])
    logits = any_model.forward(torch.tensor([prompt]))[0, -1]
    torch.testing.assert_close(any_model.unembed(resid[0, 0, 0]), logits, atol=1e-4, rtol=1e-4)


def test_chunks_and_order_do_not_matter(tiny_model):
    model = tiny_model("gemma3")
    prompts, branches = [tokens(8, 0), tokens(11, 1)], edits(model)
    whole = run_branches(model, prompts, branches)
    (plan,) = plan_branches(model, prompts, branches)
    (cut,) = plan_branches(model, prompts, branches, budget=plan.fixed_bytes + 3 * plan.row_bytes)
    assert (cut.rows_per_pass, cut.passes) == (3, 7)
    parts = run_branches(model, prompts, branches, budget=cut.budget)
    torch.testing.assert_close(whole, parts, atol=1e-5, rtol=1e-5)
    turned = run_branches(model, prompts, branches[::-1])
    torch.testing.assert_close(whole, turned.flip(1), atol=1e-5, rtol=1e-5)


def test_replacing_a_head_with_itself_changes_nothing(any_model):
    prompt, seen = tokens(10, 7), {}
    hooks = [
        (f"blocks.{layer}.attn.hook_z", lambda z, hook, layer=layer: seen.__setitem__(layer, z[0, -1]) or z)
        for layer in range(any_model.n_layers)
    ]
    any_model.forward(torch.tensor([prompt]), hooks)
    branches = [[], *([Edit(layer, z[head], head=head)] for layer, z in seen.items() for head in range(len(z)))]
    resid = run_branches(any_model, [prompt], branches)
    torch.testing.assert_close(resid, resid[:, :1].expand_as(resid), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", ["rows", "masked", "batched", "loop"])
def test_gradient_reaches_an_added_vector(tiny_model, method):
    """Against a finite difference of the same loss."""
    model = tiny_model("llama")
    prompts, answers = [tokens(6, 0), tokens(4, 1)], ((5, 6), (7, 8, 9))

    def loss(v: torch.Tensor) -> torch.Tensor:
        resid = run_branches(model, prompts, [Branch((Edit(1, v, mode="add"),), tokens=answers)], method=method)
        return resid[0, 0, :2].sum() + resid[1, 0, 2].square().sum()

    v = torch.zeros(model.d_model, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(v), v)
    direction = torch.randn(model.d_model, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        slope = (loss(1e-2 * direction) - loss(-1e-2 * direction)) / 2e-2
    torch.testing.assert_close(gradient @ direction, slope, rtol=2e-2, atol=1e-2)


def test_edits_that_do_not_fit_are_refused(tiny_model):
    model = tiny_model("qwen3")
    for edit, said in [
        (Edit(7, torch.zeros(model.d_model)), "layers 0 to 2"),
        (Edit(0, torch.zeros(model.d_head), head=9), "heads 0 to 3"),
        (Edit(0, torch.zeros(model.d_model), head=1), "takes 16"),
    ]:
        with pytest.raises(LensFVError, match=said):
            run_branches(model, [[1, 2]], [[edit]])


def test_hooks_are_gone_after_an_error(tiny_model):
    model = tiny_model("gpt2")
    before = model.forward(torch.tensor([[1, 2, 3]]))
    with pytest.raises(ZeroDivisionError), model.hooks([("blocks.1.hook_resid_post", lambda x, hook: x * 0)]):
        raise ZeroDivisionError
    assert torch.equal(before, model.forward(torch.tensor([[1, 2, 3]])))


def test_a_prompt_longer_than_the_context_is_refused(tiny_model):
    with pytest.raises(LensFVError, match="context of 256"):
        run_branches(tiny_model("llama"), [tokens(300, 0)], [[]])


def test_compatibility_mode_and_half_precision(tiny_model):
    """The other basis, and a dtype in which masks and sums are coarse."""
    model = tiny_model("llama", fresh=True)
    model.tl.enable_compatibility_mode()
    processed = type(model).wrap(model.tl)
    assert processed.weight_processing == "compat"
    assert check_engine(processed).method == "rows", check_engine(processed).reason
    half = tiny_model("qwen3", fresh=True)
    half.tl.to(torch.bfloat16)
    check = check_engine(half)
    assert half.dtype == torch.bfloat16
    assert check.method == "rows", check.reason
