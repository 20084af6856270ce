"""The one-pass engine against the plain loop, on every architecture family."""

import pytest
import torch
from helpers import edits, tokens
from hypothesis import HealthCheck, given, settings, strategies as st

from lens_fv.errors import LensFVError
from lens_fv.patching import (
    AnswerLogits,
    Branch,
    Edit,
    OpenPrompts,
    answer_logprobs,
    answer_ranks,
    check_engine,
    plan_branches,
    run_branches,
)


def test_branches_equal_the_loop(any_model):
    """Prompts of several lengths (longer than the short windows), answers of several tokens, every kind of edit."""
    prompts = [tokens(17, 0), tokens(9, 1), tokens(4, 2)]
    answers = (tuple(tokens(2, 3)), (7,), tuple(tokens(3, 4)))
    branches = [Branch(made, tokens=answers) for made in edits(any_model)]
    fast = run_branches(any_model, prompts, branches)
    slow = run_branches(any_model, prompts, branches, backend="loop")
    for got, want, answer in zip(fast, slow, answers, strict=True):
        torch.testing.assert_close(got[:, : len(answer)], want[:, : len(answer)], atol=2e-4, rtol=2e-4)


def test_answers_of_any_length_in_any_order(any_model):
    """A longer answer behind a shorter one of the same prompt, with and without edits."""
    prompts = [tokens(9, 0), tokens(4, 1)]
    answers = [
        ((7,), (7, 8)),
        (tuple(tokens(4, 2)), (5,)),
        (tuple(tokens(2, 3)), tuple(tokens(6, 4))),
        (tuple(tokens(5, 5)),) * 2,
    ]
    edit = Edit(1, torch.randn(any_model.d_model, generator=torch.Generator().manual_seed(0)), mode="add")
    branches = [Branch(made, tokens=each) for each in answers for made in ((), (edit,))]
    fast = run_branches(any_model, prompts, branches, readout=answer_logprobs)
    slow = run_branches(any_model, prompts, branches, readout=answer_logprobs, backend="loop")
    torch.testing.assert_close(fast, slow, atol=1e-4, rtol=1e-4)


def test_one_edit_a_prompt(tiny_model):
    """Positions and values of their own for each prompt, and branches with answers of their own."""
    model, rng = tiny_model("llama"), torch.Generator().manual_seed(0)
    prompts = [tokens(12, 0), tokens(7, 1)]
    values = torch.randn(2, model.d_model, generator=rng)
    branches = [
        Branch((Edit(1, values, mode="add", position=(3, -2)),), tokens=((5, 6), (7,))),
        Branch((Edit(0, values, site="resid_pre", position=(-1, 0)),), tokens=(8, 9, 10)),
        Branch((Edit(2, values[0]),), start=-4),
    ]
    together = run_branches(model, prompts, branches, readout=answer_logprobs)
    assert together.shape == (2, 3, 3)
    for i, prompt in enumerate(prompts):
        for j, branch in enumerate(branches):
            (edit,), answer = branch.edits, branch.answers(2)[i]
            own = Edit(
                edit.layer,
                edit.value[i] if edit.value.ndim == 2 else edit.value,
                site=edit.site,
                mode=edit.mode,
                position=edit.position if isinstance(edit.position, int) else edit.position[i],
            )
            alone = run_branches(model, [prompt], [Branch((own,), answer)], readout=answer_logprobs, backend="loop")
            torch.testing.assert_close(together[i, j, : len(answer)], alone[0, 0, : len(answer)], atol=1e-4, rtol=1e-4)
            assert not together[i, j, len(answer) :].any()


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_shared_edits_are_in_every_branch(tiny_model, architecture):
    model, rng = tiny_model(architecture), torch.Generator().manual_seed(0)
    prompts = [tokens(12, 0), tokens(7, 1)]
    noise = [Edit(0, torch.randn(model.d_model, generator=rng), site="resid_pre", mode="add", position=-k) for k in (3, 2)]
    noise.append(Edit(1, torch.randn(model.d_head, generator=rng), head=2, position=-2))
    head = Edit(2, torch.randn(model.d_head, generator=rng), head=0)
    together = run_branches(model, prompts, [(), (head,)], shared=noise)
    apart = run_branches(model, prompts, [noise, (*noise, head)], backend="loop")
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)
    with pytest.raises(LensFVError, match=r"shared edit .* starts at"):
        run_branches(model, prompts, [(Edit(0, torch.zeros(model.d_head), head=0, position=-3),)], shared=noise)


def test_every_family_takes_the_fast_path(any_model):
    check = check_engine(any_model)
    assert check.backend in ("rows", "masked"), check.reason
    assert check.max_abs_error < 1e-5


def test_unedited_branch_is_the_models_own_forward(any_model):
    prompt = tokens(13, 5)
    resid = run_branches(any_model, [prompt], [[]])
    logits = any_model.forward(torch.tensor([prompt]))[0, -1]
    torch.testing.assert_close(any_model.unembed(resid[0, 0, 0]), logits, atol=1e-4, rtol=1e-4)


def test_chunks_and_order_do_not_matter(tiny_model):
    model = tiny_model("gemma3")
    prompts, branches = [tokens(8, 0), tokens(11, 1)], edits(model)[:20]
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


@pytest.mark.parametrize("backend", ["rows", "masked", "batched", "loop"])
def test_gradient_reaches_an_added_vector(tiny_model, backend):
    """Against a finite difference of the same loss."""
    model = tiny_model("llama")
    prompts, answers = [tokens(6, 0), tokens(4, 1)], ((5, 6), (7, 8, 9))

    def loss(v: torch.Tensor) -> torch.Tensor:
        resid = run_branches(model, prompts, [Branch((Edit(1, v, mode="add"),), tokens=answers)], backend=backend)
        return resid[0, 0, :2].sum() + resid[1, 0, 2].square().sum()

    v = torch.zeros(model.d_model, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(v), v)
    direction = torch.randn(model.d_model, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        slope = (loss(1e-2 * direction) - loss(-1e-2 * direction)) / 2e-2
    torch.testing.assert_close(gradient @ direction, slope, rtol=2e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda m: Edit(7, torch.zeros(m.d_model)), "layers 0 to 2"),
        (lambda m: Edit(-1, torch.zeros(m.d_model)), "count layers from 0"),
        (lambda m: Edit(0, torch.zeros(m.d_head), head=9), "heads 0 to 3"),
        (lambda m: Edit(0, torch.zeros(m.d_model), head=1), "takes 16"),
        (lambda m: Edit(0, torch.tensor(2.0)), "only a scale"),
        (lambda m: Edit(0, torch.zeros(3, m.d_model)), "values for 3 prompts, there are 1"),
        (lambda m: Edit(0, torch.zeros(m.d_model), position=2), "position 2 of a prompt of 2 tokens"),
        (lambda m: Edit(0, torch.zeros(m.d_model), position=-3), "position -3 of a prompt of 2 tokens"),
        (lambda m: Edit(0, torch.zeros(m.d_model), position=(0, 1)), "2 positions for 1 prompts"),
        (
            lambda m: Edit(1, torch.full((m.d_head,), torch.nan), head=2),
            "blocks.1.attn.hook_z, head 2: its value is not finite",
        ),
    ],
)
def test_edits_that_do_not_fit_are_refused_before_anything_runs(tiny_model, edit, said):
    model, ran = tiny_model("qwen3"), []
    with model.hooks([("blocks.0.hook_resid_pre", lambda x, hook: ran.append(1) or x)]), pytest.raises(LensFVError, match=said):
        run_branches(model, [[1, 2]], [(), (edit(model),)], backend="rows")
    assert not ran


def test_a_budget_smaller_than_one_row_is_refused(tiny_model):
    with pytest.raises(LensFVError, match="memory budget of 0 MiB"):
        run_branches(tiny_model("llama"), [tokens(9, 0)], [()], budget=1000)


def test_answers_for_other_prompts_and_late_starts_are_refused(tiny_model):
    model = tiny_model("llama")
    with pytest.raises(LensFVError, match="answers for 2 prompts, there are 1"):
        run_branches(model, [[1, 2]], [Branch(tokens=((1,), (2,)))])
    with pytest.raises(LensFVError, match="edits position 0; start there or before"):
        run_branches(model, [[1, 2]], [Branch((Edit(0, torch.zeros(model.d_model), position=0),), start=1)])
    with pytest.raises(LensFVError, match="no branches"):
        run_branches(model, [[1, 2]], [])


def test_running_out_of_memory_halves_the_chunk_and_goes_on(tiny_model):
    """The readout asks for more than any machine has while it is given more than three rows."""
    model, sizes = tiny_model("llama"), []

    def greedy(model, states, tokens):
        sizes.append(states.shape[1])
        if states.shape[1] > 3:
            torch.empty(2**60)
        return states

    branches, prompts = edits(model)[:14], [tokens(6, 0)]
    got = run_branches(model, prompts, branches, readout=greedy)
    assert sizes == [14, 7, 3, 3, 3, 3, 2]
    torch.testing.assert_close(got, run_branches(model, prompts, branches), atol=1e-5, rtol=1e-5)

    def greedier(model, states, tokens):
        torch.empty(2**60)

    with pytest.raises(RuntimeError, match="allocate"):
        run_branches(model, prompts, branches, readout=greedier)


def test_running_out_of_memory_says_nothing_about_a_way(tiny_model):
    """A layer asks for more than any machine has when it is given more tokens than one of the loop's runs."""
    model, given = tiny_model("llama", fresh=True), []

    def greedy(module, args, kwargs):
        found = args[0] if args else kwargs["hidden_states"]
        given.append(found.shape[:-1].numel())
        if given[-1] > 16:
            torch.empty(2**60)

    with model.tl.blocks[0].register_forward_pre_hook(greedy, with_kwargs=True), pytest.raises(RuntimeError, match="allocate"):
        run_branches(model, [tokens(6, 0)], edits(model)[:14])
    assert max(given[:14]) <= 16 < max(given)  # the loop ran first, and then a way that needs more
    assert model.branch_backend is None
    assert check_engine(model).backend == "rows"


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_batch_chunk_and_order_change_nothing(tiny_model, architecture, data):
    """Any prompts, any of the edits in any order, any budget: what each prompt and branch gives on its own."""
    model = tiny_model(architecture)
    if "all" not in ALONE.setdefault(architecture, {}):
        ALONE[architecture]["all"] = edits(model)
    pool = ALONE[architecture]["all"]
    prompts = [tokens(n, n) for n in data.draw(st.lists(st.integers(4, 14), min_size=1, max_size=3), label="lengths")]
    chosen = data.draw(st.lists(st.integers(0, len(pool) - 1), min_size=1, max_size=6), label="branches")
    plans = plan_branches(model, prompts, [pool[i] for i in chosen])
    rows = data.draw(st.integers(1, 5), label="rows a pass")
    budget = max(plan.fixed_bytes + rows * plan.row_bytes for plan in plans)
    together = run_branches(model, prompts, [pool[i] for i in chosen], budget=budget)
    for p, prompt in enumerate(prompts):
        for b, i in enumerate(chosen):
            key = (len(prompt), i)
            if key not in ALONE[architecture]:
                ALONE[architecture][key] = run_branches(model, [prompt], [pool[i]])[0, 0]
            torch.testing.assert_close(together[p, b], ALONE[architecture][key], atol=1e-4, rtol=1e-4)


ALONE: dict[str, dict] = {}


def test_opened_prompts_run_their_prefix_once(tiny_model):
    model, layer0 = tiny_model("llama"), []
    opened = OpenPrompts(model, [tokens(9, 0)])
    branches = edits(model)[:5]
    first = opened.run(branches)
    hook = ("blocks.0.attn.hook_z", lambda z, hook: layer0.append(z.shape[1]) or z)
    with model.hooks([hook]):
        again = opened.run(branches)
    assert layer0 == [4]  # the edited rows that start there, and nothing of the prompt
    torch.testing.assert_close(first, again, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", ["gpt2", "gemma3", "phi"])
def test_readouts_are_what_the_logits_say(tiny_model, architecture):
    model, prompts, answers = tiny_model(architecture), [tokens(6, 0), tokens(4, 1)], ((5, 6), (7,))
    branches = [Branch((), answers), Branch((Edit(1, torch.ones(model.d_model), mode="add"),), answers)]
    logits = model.unembed(run_branches(model, prompts, branches)).float()
    logprobs = run_branches(model, prompts, branches, readout=answer_logprobs)
    ranked = run_branches(model, prompts, branches, readout=answer_ranks)
    columns = torch.tensor([[5, 9], [7, 11]])
    some = run_branches(model, prompts, branches, readout=AnswerLogits(columns))
    for p, answer in enumerate(answers):
        for k, token in enumerate(answer):
            torch.testing.assert_close(logprobs[p, :, k], logits[p, :, k].log_softmax(-1)[:, token], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(ranked[p, :, k, 1], logprobs[p, :, k], atol=1e-5, rtol=1e-5)
            higher = (logits[p, :, k] > logits[p, :, k, token, None]).sum(-1)
            assert (ranked[p, :, k, 0] - higher).abs().max() <= 1  # two tokens may tie up to rounding
        torch.testing.assert_close(some[p], logits[p, :, 0][:, columns[p]], atol=1e-4, rtol=1e-4)
    assert not logprobs[1, :, 1].any() and not ranked[1, :, 1].any()


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
    assert check_engine(processed).backend == "rows", check_engine(processed).reason
    half = tiny_model("qwen3", fresh=True)
    half.tl.to(torch.bfloat16)
    check = check_engine(half)
    assert half.dtype == torch.bfloat16
    assert check.backend == "rows", check.reason
