"""Head ranking against Todd et al.'s procedure, written out as a loop."""

import json

import pytest
import torch
from helpers import toy_task

from lens_fv.artefact import load_artefact
from lens_fv.errors import LensFVError
from lens_fv.patching import HeadRanking, head_means, rank_heads
from lens_fv.tasks import build_prompts, encode_prompts, split_pairs

SMALL = {"n_shots": 2, "n_clean": 4, "n_trials": 3}


def by_hand(model, task, metric):
    """Mean outputs at the last token of clean prompts; one hooked forward for every head of every corrupted prompt."""
    split = split_pairs(task, seed=0)
    clean = encode_prompts(model, build_prompts(split.validation, split.train, n_shots=2, n_prompts=4, seed=0))
    corrupt = encode_prompts(
        model, build_prompts(split.validation, split.train, n_shots=2, n_prompts=3, seed=1, shuffle="permutation")
    )
    z = torch.zeros(model.n_layers, model.n_heads, model.d_head)
    for prompt in clean:
        for layer in range(model.n_layers):
            kept = []
            hook = (f"blocks.{layer}.attn.hook_z", lambda x, hook, kept=kept: kept.append(x[0, -1].clone()) or x)
            model.forward(torch.tensor([prompt.tokens]), [hook])
            z[layer] += kept[0] / len(clean)

    def value(logits, answer):
        logprob = logits[0, -1].log_softmax(-1)[answer]
        return float(logprob.exp() if metric == "prob" else logprob)

    effects = torch.zeros(len(corrupt), model.n_layers, model.n_heads)
    for t, prompt in enumerate(corrupt):
        tokens, answer = torch.tensor([prompt.tokens]), prompt.answers[0][0]
        base = value(model.forward(tokens), answer)
        for layer in range(model.n_layers):
            for head in range(model.n_heads):

                def put(x, hook, layer=layer, head=head):
                    x = x.clone()
                    x[0, -1, head] = z[layer, head]
                    return x

                effects[t, layer, head] = value(model.forward(tokens, [(f"blocks.{layer}.attn.hook_z", put)]), answer) - base
    return effects


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3", "neox"])
@pytest.mark.parametrize("metric", ["prob", "logprob"])
def test_ranking_is_the_reference_procedure(tiny_model, architecture, metric):
    model, task = tiny_model(architecture), toy_task()
    ranking = rank_heads(model, task, metric=metric, seed=0, **SMALL)
    torch.testing.assert_close(ranking.effects, by_hand(model, task, metric), atol=1e-5, rtol=1e-3)


def test_top_is_sorted_and_inside_its_interval(tiny_model):
    ranking = rank_heads(tiny_model("llama"), toy_task(), **SMALL)
    heads = ranking.top()
    assert len(heads) == 12
    assert [h.effect for h in heads] == sorted((h.effect for h in heads), reverse=True)
    assert all(h.low <= h.effect <= h.high for h in heads)
    assert heads[:3] == ranking.top(3)


def test_interval_covers_the_mean_as_often_as_it_says(tiny_model):
    """On 200 draws of 25 normal numbers each: a 95 % percentile bootstrap is a little narrow at n = 25, not much."""
    made = rank_heads(tiny_model("llama"), toy_task(), **SMALL)
    rng = torch.Generator().manual_seed(0)
    values = torch.randn(25, 3, 4, generator=rng)
    hits = total = 0
    for i in range(17):
        draw = values if i == 0 else torch.randn(25, 3, 4, generator=rng)
        ranking = HeadRanking(made.provenance, draw, torch.zeros(25), made.z, made.carry, made.resid_norm, "prob")
        low, high = ranking.interval(resamples=500)
        hits += int(((low <= 0) & (high >= 0)).sum())
        total += 12
    assert 0.86 <= hits / total <= 0.99


def test_round_trip(tiny_model, tmp_path):
    ranking = rank_heads(tiny_model("gemma3"), toy_task(), **SMALL)
    again = load_artefact(ranking.save(tmp_path / "deep" / "r.safetensors"))
    assert isinstance(again, HeadRanking)
    assert torch.equal(again.effects, ranking.effects)
    assert again.provenance == ranking.provenance
    assert again.top(5) == ranking.top(5)
    assert json.dumps(dict(again.provenance.options)) == json.dumps(dict(ranking.provenance.options))


def test_cards(tiny_model):
    ranking = rank_heads(tiny_model("llama"), toy_task(name="<b>toy"), **SMALL)
    assert repr(ranking).startswith("HeadRanking\n")
    html = ranking._repr_html_()
    assert html.count("<rect") == 12
    assert "&lt;b&gt;toy" in html


def test_hooks_that_do_not_fire_are_an_error(tiny_model):
    """Heads whose outputs go nowhere: the all-zero result of a patch that never fired."""
    model = tiny_model("llama", fresh=True)
    for block in model.tl.blocks:
        block.attn.o.weight.data.zero_()
    with pytest.raises(LensFVError, match="no head changes anything"):
        rank_heads(model, toy_task(), **SMALL)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"n_trials": 0}, "at least 1"), ({"n_shots": 500}, "500 shots"), ({"n_shots": 20}, "fewer than 20 shots")],
)
def test_bad_requests(tiny_model, options, said):
    with pytest.raises(LensFVError, match=said):
        rank_heads(tiny_model("llama"), toy_task(), **{**SMALL, **options})


def test_carry_is_one_without_a_norm_behind_attention(tiny_model):
    prompts = [[1, 2, 3, 4], [5, 6, 7]]
    for architecture in ("llama", "gpt2", "neox", "opt"):
        carry = head_means(tiny_model(architecture), prompts).carry
        torch.testing.assert_close(carry, torch.ones_like(carry), atol=1e-3, rtol=1e-3)
    carry = head_means(tiny_model("gemma3"), prompts).carry
    assert (carry - 1).abs().mean() > 0.1
