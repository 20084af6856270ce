"""Attribution patching against finite differences, direct logit attribution against the model's raw weights."""

from itertools import combinations

import pytest
import torch
from helpers import toy_task

from lens_fv.core.artefact import Provenance, load_artefact
from lens_fv.errors import LensFVError
from lens_fv.heads import Overlap, rank_heads
from lens_fv.heads.attribution import compare_attributions
from lens_fv.heads.comparison import HeadComparison
from lens_fv.model import LensModel
from lens_fv.model.plain import own_weights, write_weights
from lens_fv.tasks import TEMPLATES, build_prompts, encode_prompts, split_pairs

SMALL = {"n_shots": 2, "n_clean": 4, "n_trials": 3}


@pytest.fixture(scope="module")
def lively(tiny_model):
    """A random model whose norms and biases are random too: `lively("llama")`."""
    built = {}

    def build(architecture):
        if architecture not in built:
            model = built[architecture] = tiny_model(architecture, fresh=True)
            torch.manual_seed(1)
            moved = {
                name: weight + 0.3 * torch.randn_like(weight)
                for name, weight in own_weights(model).items()
                if "norm" in name or "ln_" in name or name.endswith("bias")
            }
            write_weights(model, moved)
        return built[architecture]

    return build


def corrupted(model, task):
    split = split_pairs(task, seed=0)
    made = build_prompts(split.validation, split.train, n_shots=2, n_prompts=3, seed=1, shuffle="permutation")
    return encode_prompts(model, made)


def at_last_token(model, tokens, site):
    """What every layer's `site` holds at the last token."""
    seen = []
    hooks = [(f"blocks.{i}.{site}", lambda x, hook: seen.append(x[0, -1].detach().clone())) for i in range(model.n_layers)]
    model.forward(tokens, hooks)
    return torch.stack(seen)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
@pytest.mark.parametrize("metric", ["prob", "logprob"])
def test_attribution_patching_is_the_slope_of_the_replacement(tiny_model, architecture, metric):
    model = tiny_model(architecture, fresh=True)
    model.tl.double()  # for the differences' sake
    task = toy_task()
    ranking = rank_heads(model, task, metric=metric, **SMALL)
    found = compare_attributions(model, task, ranking)

    def value(tokens, answer, layer, head, step):
        def move(x, hook):
            x = x.clone()
            x[0, -1, head] += step * (ranking.z[layer, head] - x[0, -1, head])
            return x

        logprob = model.forward(tokens, [(f"blocks.{layer}.attn.hook_z", move)])[0, -1].log_softmax(-1)[answer]
        return logprob.exp() if metric == "prob" else logprob

    step, seen = 1e-2, []
    for t, prompt in enumerate(corrupted(model, task)):
        tokens, answer = torch.tensor([prompt.tokens]), prompt.answers[0][0]
        # Norms run in single precision, whatever the weights: what that leaves of a log-probability's digits, and a slope.
        unedited = value(tokens, answer, 0, 0, 0)
        rounding = 2**-23 * (unedited.abs() if metric == "logprob" else -unedited * unedited.log()) / step
        for layer in range(model.n_layers):
            for head in range(model.n_heads):
                ends = [value(tokens, answer, layer, head, s) for s in (step, -step)]
                want, got = (ends[0] - ends[1]) / (2 * step), found.attribution[t, layer, head].double()
                torch.testing.assert_close(got, want, atol=float(rounding), rtol=1e-3)
                seen.append(abs(want) > 10 * rounding)
    assert sum(seen) > 0.8 * len(seen)  # there is something to find
    assert torch.equal(found.exact, ranking.effects)


def raw_weights(model, layer, head):
    """One head's output projection, (d_head, d_model); the final norm's gain; the unembedding, (d_vocab, d_model)."""
    hf, own = model.tl.original_model, slice(head * model.d_head, (head + 1) * model.d_head)
    if "gpt2" in model.name:
        return hf.transformer.h[layer].attn.c_proj.weight[own], hf.transformer.ln_f.weight, hf.lm_head.weight
    gain = hf.model.norm.weight + (1 if "gemma" in model.name else 0)
    return hf.model.layers[layer].self_attn.o_proj.weight[:, own].T, gain, hf.lm_head.weight


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
def test_direct_logit_attribution_is_what_the_weights_say(lively, architecture):
    model, task = lively(architecture), toy_task()
    ranking = rank_heads(model, task, **SMALL)
    found = compare_attributions(model, task, ranking)
    assert (ranking.post_attn_gain[0].std() > 0.1) == (architecture == "gemma3")
    for t, prompt in enumerate(corrupted(model, task)):
        tokens, answer = torch.tensor([prompt.tokens]), prompt.answers[0][0]
        z, resid = at_last_token(model, tokens, "attn.hook_z"), at_last_token(model, tokens, "hook_resid_post")[-1]
        centre = (lambda x: x - x.mean()) if architecture == "gpt2" else (lambda x: x)
        scale = (centre(resid).square().mean() + (1e-5 if architecture == "gpt2" else 1e-6)).sqrt()
        for layer in range(model.n_layers):
            for head in range(model.n_heads):
                w_o, gain, w_u = raw_weights(model, layer, head)
                written = (ranking.z[layer, head] - z[layer, head]) @ w_o * ranking.post_attn_gain[layer]
                logits = w_u @ (centre(written) / scale * gain)
                want = logits[answer] - logits.mean()
                torch.testing.assert_close(found.direct[t, layer, head], want, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "neox"])
def test_direct_logit_attribution_is_the_tool_s_on_processed_weights(lively, architecture):
    from transformer_lens import ActivationCache
    from transformer_lens.tools.analysis.direct_logit_attribution import direct_logit_attribution

    model, task = lively(architecture), toy_task()
    raw = compare_attributions(model, task, rank_heads(model, task, **SMALL))
    model.tl.enable_compatibility_mode(disable_warnings=True)
    processed = LensModel.wrap(model.tl, name=model.name, prepend_bos=True)
    assert processed.weight_processing == "compat"
    ranking = rank_heads(processed, task, **SMALL)
    found = compare_attributions(processed, task, ranking)
    torch.testing.assert_close(found.direct, raw.direct, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(found.attribution, raw.attribution, atol=1e-5, rtol=1e-2)
    for t, prompt in enumerate(corrupted(model, task)):
        _, cache = processed.tl.run_with_cache(torch.tensor([prompt.tokens]))
        z = torch.stack([cache[f"blocks.{i}.attn.hook_z"][0, -1] for i in range(3)])
        change = {f"blocks.{i}.attn.hook_z": (ranking.z - z)[i][None, None] for i in range(3)}
        rest = {name: cache[name][:, -1:] for name in ("ln_final.hook_scale", "blocks.2.hook_resid_post")}
        moved = ActivationCache({**change, **rest}, processed.tl)
        want = direct_logit_attribution(processed.tl, answer_tokens=prompt.answers[0][0], unit="head", cache=moved)
        torch.testing.assert_close(found.direct[t].flatten(), want.attribution[:-1, 0], atol=1e-5, rtol=1e-4)


def test_every_family_can_be_scored(any_model):
    ranking = rank_heads(any_model, toy_task(), metric="logprob", **SMALL)
    tokens = torch.tensor([[1, 2, 3]])
    before = any_model.forward(tokens)
    found = compare_attributions(any_model, toy_task(), ranking)
    assert (found.attribution != 0).all() and (found.direct != 0).all()
    # The model is left as it was.
    assert torch.equal(any_model.forward(tokens), before)
    assert not any(p.requires_grad or p.grad is not None for p in any_model.tl.parameters())


def test_what_is_asked_for_inside_no_grad_is_answered(tiny_model):
    model, task = tiny_model("llama"), toy_task()
    ranking = rank_heads(model, task, **SMALL)
    with torch.no_grad():
        found = compare_attributions(model, task, ranking)
    assert torch.equal(found.attribution, compare_attributions(model, task, ranking).attribution)


# -- how they are compared --------------------------------------------------------------------------------------------


def made(exact, attribution, direct):
    layers, heads = exact.shape[1:]
    provenance = Provenance("tiny", None, "raw", "float32", True, (layers, heads, 8, 4), "toy", "t", "p", 0, "made up")
    return HeadComparison(provenance, exact, attribution, direct, "prob")


@pytest.fixture
def comparison():
    """Twelve heads, ten trials: one score a monotone function of the exact effect, the other its opposite."""
    exact = torch.randn(10, 3, 4, generator=torch.Generator().manual_seed(0))
    exact[:] = exact[0]
    return made(exact, exact.exp(), -exact)


@pytest.mark.parametrize("coefficient", ["spearman", "kendall"])
def test_only_the_order_counts(comparison, coefficient):
    for score, want in (("exact", 1), ("attribution", 1), ("direct", -1)):
        assert comparison.correlation(score, coefficient=coefficient) == pytest.approx((want, want, want, 10))


def test_kendall_s_tau_counts_pairs():
    rng = torch.Generator().manual_seed(0)
    exact, other = torch.randn(2, 5, 3, 4, generator=rng)
    found = made(exact, other, exact).correlation("attribution", coefficient="kendall")
    pairs = list(combinations(range(12), 2))
    x, y = exact.mean(0).flatten(), other.mean(0).flatten()
    agree = sum(1 if (x[i] - x[j]) * (y[i] - y[j]) > 0 else -1 for i, j in pairs)
    assert found.mean == pytest.approx(agree / len(pairs))


def test_interval_is_over_trials_drawn_together():
    rng = torch.Generator().manual_seed(0)
    signal = torch.randn(3, 4, generator=rng)
    exact = signal + torch.randn(20, 3, 4, generator=rng)
    # The same noise in both: whichever trials are drawn, they agree.
    assert made(exact, exact, exact).correlation("attribution") == pytest.approx((1, 1, 1, 20))
    few, many = (made(e, e + torch.randn(e.shape, generator=rng), e) for e in (exact, exact.repeat(20, 1, 1)))
    one, other = (m.correlation("attribution") for m in (few, many))
    assert one.ci_low < one.mean < 1 and other.ci_high - other.ci_low < (one.ci_high - one.ci_low) / 2
    single = made(exact[:1], exact[1:2], exact[:1]).correlation("attribution")
    assert single.ci_low == single.mean == single.ci_high < 1


def test_overlap_counts_heads_and_chance():
    exact = torch.arange(6.0).reshape(1, 2, 3)
    other = torch.tensor([0.0, 5.0, 0.5, 3.0, 1.0, 4.0]).reshape(1, 2, 3)
    found = made(exact, other, exact).overlap("attribution", 3)
    draws = [len({3, 4, 5} & set(draw)) for draw in combinations(range(6), 3)]
    assert found.n_shared == 2  # heads 3 and 5 of 1, 3 and 5
    assert found.expected_shared == pytest.approx(sum(draws) / len(draws))
    assert found.p_value == pytest.approx(sum(d >= 2 for d in draws) / len(draws))
    assert made(exact, other, exact).overlap("direct", 6) == Overlap(6, 6.0, 1.0, 1.0, 1.0)


def test_round_trip(tiny_model, tmp_path):
    model, task = tiny_model("gemma3"), toy_task()
    ranking = rank_heads(model, task, **SMALL)
    found = compare_attributions(model, task, ranking)
    again = load_artefact(found.save(tmp_path / "c.safetensors"))
    assert isinstance(again, HeadComparison) and again.provenance == found.provenance
    for name in ("exact", "attribution", "direct"):
        assert torch.equal(getattr(again, name), getattr(found, name))
    assert again.provenance.prompts_hash == ranking.provenance.prompts_hash
    assert again.summary() == found.summary()
    # A ranking that was saved says as much about its prompts as one that was not.
    kept = load_artefact(ranking.save(tmp_path / "r.safetensors"))
    assert torch.equal(compare_attributions(model, task, kept).attribution, found.attribution)


def test_card(comparison):
    facts = comparison.summary()
    assert facts["attribution patching"].startswith("Spearman +1.00 [+1.00, +1.00], Kendall +1.00")
    assert facts["attribution patching"].endswith("5 of 5 (chance 2.1), 10 of 10 (chance 8.3)")
    assert facts["direct logit attribution"].startswith("Spearman -1.00")
    assert torch.equal(comparison.heatmap_data(), comparison.attribution.mean(0))
    assert comparison._repr_html_().count("<rect") == 12


def test_bad_requests(tiny_model, comparison):
    model, task = tiny_model("llama"), toy_task()
    ranking = rank_heads(model, task, **SMALL)
    with pytest.raises(LensFVError, match="its model is tiny-llama, here it is tiny-gpt2"):
        compare_attributions(tiny_model("gpt2"), task, ranking)
    with pytest.raises(LensFVError, match="its task is toy, here it is other"):
        compare_attributions(model, toy_task(name="other"), ranking)
    with pytest.raises(LensFVError, match="fingerprint of the task"):
        compare_attributions(model, toy_task(30), ranking)
    for options in ({"template": TEMPLATES["arrow"]}, {"split": split_pairs(task, seed=5)}):
        with pytest.raises(LensFVError, match="not the prompts that were ranked on"):
            compare_attributions(model, task, ranking, **options)
    for k in (0, 13):
        with pytest.raises(LensFVError, match="between 1 and all 12"):
            comparison.overlap("direct", k)
    with pytest.raises(LensFVError, match="attribution patching: holds values that are not finite"):
        made(comparison.exact, comparison.exact.log(), comparison.exact)


def test_split_and_template_of_the_ranking_are_taken(tiny_model):
    model, task = tiny_model("llama"), toy_task()
    options = {"template": TEMPLATES["arrow"], "split": split_pairs(task, seed=5)}
    ranking = rank_heads(model, task, **options, **SMALL)
    found = compare_attributions(model, task, ranking, **options)
    assert found.provenance.prompts_hash == ranking.provenance.prompts_hash
