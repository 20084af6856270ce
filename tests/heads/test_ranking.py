"""Head ranking against its procedure, written out as a loop of hooked forward passes."""

import json
from dataclasses import replace

import pytest
import torch
from helpers import toy_task

from lens_fv.core.artefact import load_artefact
from lens_fv.core.store import artefact_path
from lens_fv.errors import LensFVError
from lens_fv.heads import HeadRanking, head_means, make_ranking_prompts, rank_heads
from lens_fv.heads.statistics import p_values, split_half
from lens_fv.tasks import TODD, Pair, Task, build_prompts, encode_prompts, split_pairs, zero_shot

SMALL = {"n_shots": 2, "n_clean": 4, "n_trials": 3}


def last_z(model, prompt):
    """Every head's output at the last token."""
    kept = []
    hooks = [(f"blocks.{i}.attn.hook_z", lambda x, hook: kept.append(x[0, -1].clone()) or x) for i in range(model.n_layers)]
    model.forward(torch.tensor([prompt.tokens]), hooks)
    return torch.stack(kept).reshape(model.n_layers, model.n_heads, model.d_head)


def prompts(model, task, n, *, n_shots=2, seed=0, **options):
    split = split_pairs(task, seed=0)
    return encode_prompts(
        model, build_prompts(split.validation, split.train, n_shots=n_shots, n_prompts=n, seed=seed, **options)
    )


def drawn(model, task, **options):
    return make_ranking_prompts(model, task, **{**SMALL, **options})


def value(logits, metric, prompt, wrong):
    answer = prompt.answers[0][0]
    if metric == "prob":
        return float(logits.softmax(-1)[answer])
    if metric == "logprob":
        return float(logits.log_softmax(-1)[answer])
    return float(logits[answer] - (0 if metric == "logit" else logits[wrong]))


def by_hand(model, corrupted, z, *, metric="prob", wrong=None, add=False, heads_at_once=1, embedding=None):
    """One hooked forward for every head (or group) of every prompt; `z[t]` is put in, or added, at the last token."""
    units = model.n_heads // heads_at_once
    effects = torch.zeros(len(corrupted), model.n_layers, units)
    baseline = torch.zeros(len(corrupted))
    for t, prompt in enumerate(corrupted):
        tokens = torch.tensor([prompt.tokens])
        always = [("blocks.0.hook_resid_pre", lambda x, hook, t=t: x + embedding[t])] if embedding else []
        plain = model.forward(tokens, always)[0, -1]
        others = [i for i in plain.argsort(descending=True).tolist() if i not in {a[0] for a in prompt.answers}]
        foil = others[0] if wrong is None else wrong[t]
        baseline[t] = value(plain, metric, prompt, foil)
        for layer in range(model.n_layers):
            for unit in range(units):
                at = slice(unit * heads_at_once, (unit + 1) * heads_at_once)

                def put(x, hook, layer=layer, at=at, t=t):
                    x = x.clone()
                    x[0, -1, at] = z[t][layer, at] + (x[0, -1, at] if add else 0)
                    return x

                logits = model.forward(tokens, [*always, (f"blocks.{layer}.attn.hook_z", put)])[0, -1]
                effects[t, layer, unit] = value(logits, metric, prompt, foil) - baseline[t]
    return effects, baseline


def check(ranking, expected):
    effects, baseline = expected
    assert effects.abs().max() > 1e-4  # the oracle saw something happen
    torch.testing.assert_close(ranking.effects, effects, atol=2e-5, rtol=1e-3)
    torch.testing.assert_close(ranking.baseline, baseline, atol=2e-5, rtol=1e-3)


def clean_mean(model, task, trials=3, **options):
    return torch.stack([last_z(model, p) for p in prompts(model, task, 4, **options)]).mean(0).expand(trials, -1, -1, -1)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3", "neox"])
@pytest.mark.parametrize("metric", ["prob", "logprob", "logit", "logit_diff"])
def test_ranking_is_the_reference_procedure(tiny_model, architecture, metric):
    """Todd et al.: mean outputs of clean prompts into prompts of permuted labels; under every metric."""
    model, task = tiny_model(architecture), toy_task()
    corrupted = prompts(model, task, 3, seed=1, shuffle="permutation")
    ranking = rank_heads(model, task, metric=metric, **SMALL)
    check(ranking, by_hand(model, corrupted, clean_mean(model, task), metric=metric))


def test_the_strongest_wrong_token_begins_no_acceptable_answer(tiny_model):
    """Of a model that says the token that all answers begin with, and nearly as gladly another one."""
    model, task = tiny_model("phi", fresh=True), toy_task()
    corrupted = prompts(model, task, 3, seed=1, shuffle="permutation")
    right = corrupted[0].answers[0][0]
    model.tl.original_model.lm_head.bias.data[[right, 7]] = torch.tensor([20.0, 16.0])
    assert all(model.forward(torch.tensor([p.tokens]))[0, -1].argmax() == right == p.answers[0][0] for p in corrupted)
    ranking = rank_heads(model, task, metric="logit_diff", **SMALL)
    check(ranking, by_hand(model, corrupted, clean_mean(model, task), metric="logit_diff", wrong=[7] * 3))
    assert (ranking.baseline > 0).all()


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("corruption", ["derangement", "zero_shot", "instruction"])
def test_corruptions(tiny_model, architecture, corruption):
    model, task = tiny_model(architecture), toy_task()
    said, shown = {"instruction": "Say it."}, {}
    if corruption == "derangement":
        corrupted = prompts(model, task, 3, seed=1, shuffle="derangement", **said)
    elif corruption == "zero_shot":
        corrupted = prompts(model, task, 3, seed=1, n_shots=0, **said)
    else:
        shown = {"other_instruction": "Walk."}
        corrupted = prompts(model, task, 3, seed=1, instruction="Walk.")
    ranking = rank_heads(model, task, corruption=corruption, **said, **shown, **SMALL)
    check(ranking, by_hand(model, corrupted, clean_mean(model, task, **said)))


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
def test_noise_on_the_demonstrations(tiny_model, architecture):
    model, task = tiny_model(architecture), toy_task()
    said = {"instruction": "Say it."}
    corrupted = prompts(model, task, 3, seed=1, **said)
    made = drawn(model, task, corruption="noise", noise=2.0, **said)
    assert [p.tokens for p in made.corrupted] == [p.tokens for p in corrupted]
    noise, embedded = [], []
    for prompt, edits in zip(corrupted, made.noise, strict=True):
        at = [edit.position for edit in edits]
        text = model.tokenizer.decode([prompt.tokens[i] for i in at])
        whole = model.tokenizer.decode(list(prompt.tokens[at[0] :]))
        # Line ends may be one token with what follows them.
        assert text.strip().startswith("Q: ")
        assert (text.count("Q: "), text.count("A: ")) == (2, 2)
        assert whole[len(text) :].strip().startswith("Q: ")
        assert at == list(range(at[0], at[-1] + 1))
        noise.append(torch.zeros(len(prompt.tokens), model.d_model))
        noise[-1][at] = torch.stack([edit.value for edit in edits])
        kept = []
        model.forward(torch.tensor([prompt.tokens]), [("blocks.0.hook_resid_pre", lambda x, hook, k=kept: k.append(x[0]) or x)])
        embedded.append(kept[0][at])
    drew = torch.cat([n[n.abs().sum(1) > 0] for n in noise])
    # The standard deviation of n normal numbers is itself off by 1 / sqrt(2 n) of it.
    assert float(drew.std() / torch.cat(embedded).std()) == pytest.approx(2.0, rel=4 / (2 * drew.numel()) ** 0.5)
    ranking = rank_heads(model, task, corruption="noise", noise=2.0, **said, **SMALL)
    check(ranking, by_hand(model, corrupted, clean_mean(model, task, **said), embedding=noise))


def test_instruction_alone_and_nothing_in_its_place(tiny_model):
    model, task = tiny_model("llama"), toy_task()
    options = {**SMALL, "n_shots": 0}
    ranking = rank_heads(model, task, corruption="instruction", instruction="Say it.", **options)
    corrupted = prompts(model, task, 3, n_shots=0, seed=1)
    check(ranking, by_hand(model, corrupted, clean_mean(model, task, n_shots=0, instruction="Say it.")))


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("mode", ["replace", "add"])
@pytest.mark.parametrize("source", ["zero", "resample", "other"])
def test_sources_and_modes(tiny_model, architecture, source, mode):
    model, task = tiny_model(architecture), toy_task()
    if (source, mode) == ("zero", "add"):
        with pytest.raises(LensFVError, match="no head changes anything"):
            rank_heads(model, task, source=source, mode=mode, **SMALL)
        return
    clean, corrupted = prompts(model, task, 4), prompts(model, task, 3, seed=1, shuffle="permutation")
    given = source
    if source == "zero":
        z = torch.zeros(3, model.n_layers, model.n_heads, model.d_head)
    elif source == "resample":
        z = torch.stack([last_z(model, clean[i]) for i in drawn(model, task).partners])
    else:
        given = rank_heads(model, toy_task(30, name="other"), **{**SMALL, "seed": 3})
        z = given.z.expand(3, -1, -1, -1)
    ranking = rank_heads(model, task, source=given, mode=mode, **SMALL)
    check(ranking, by_hand(model, corrupted, z, add=mode == "add"))
    # Whatever is patched in, what a vector is made from are the clean means.
    torch.testing.assert_close(ranking.z, clean_mean(model, task)[0])


def test_resampling_draws_another_query_for_every_trial(tiny_model):
    model, task = tiny_model("llama"), toy_task()
    prompts = drawn(model, task, n_clean=20, n_trials=40)
    split = split_pairs(task, seed=0)
    clean = build_prompts(split.validation, split.train, n_shots=2, n_prompts=20, seed=0)
    pairs = zip(prompts.partners, prompts.corrupted_texts, strict=True)
    assert all(clean[i].query != corrupted.query for i, corrupted in pairs)
    assert len(set(prompts.partners)) > 10
    assert prompts.partners != drawn(model, task, n_clean=20, n_trials=40, seed=1).partners


def test_means_of_any_other_prompt(tiny_model):
    model, task = tiny_model("gpt2"), toy_task()
    other = encode_prompts(model, [zero_shot(Pair("word", ("x",)))])
    ranking = rank_heads(model, task, source=head_means(model, [p.tokens for p in other]), **SMALL)
    corrupted = prompts(model, task, 3, seed=1, shuffle="permutation")
    check(ranking, by_hand(model, corrupted, last_z(model, other[0]).expand(3, -1, -1, -1)))
    assert ranking.provenance.options["source"].startswith("given ")


@pytest.mark.parametrize(("architecture", "heads_at_once"), [("llama", 2), ("gemma3", 2), ("gpt2", 1)])
def test_groups_are_all_heads_of_one_key_value_head(tiny_model, architecture, heads_at_once):
    model, task = tiny_model(architecture), toy_task()
    ranking = rank_heads(model, task, unit="group", **SMALL)
    corrupted = prompts(model, task, 3, seed=1, shuffle="permutation")
    check(ranking, by_hand(model, corrupted, clean_mean(model, task), heads_at_once=heads_at_once))
    best = ranking.top(1)[0]
    heads = [(best.layer, best.head * heads_at_once + i) for i in range(heads_at_once)]
    assert list(ranking.heads(1)) == heads


def test_a_group_shares_its_keys(tiny_model):
    """A head's keys are its group's: change one key head's weights, and just its group's outputs change."""
    model = tiny_model("llama", fresh=True)
    prompt = prompts(model, toy_task(), 1)[0]
    before = last_z(model, prompt)[0]
    model.tl.original_model.model.layers[0].self_attn.k_proj.weight.data[model.d_head :] *= -3
    moved = (last_z(model, prompt)[0] - before).abs().amax(1) > 1e-6
    assert moved.tolist() == [False, False, True, True]


def test_the_foil_can_be_named(tiny_model):
    model, task = tiny_model("llama"), spelled()
    corrupted = prompts(model, task, 3, seed=1, shuffle="permutation", template=BARE)
    queries = [prompt.query for prompt in drawn(model, task, template=BARE).corrupted_texts]
    z = clean_mean(model, task, template=BARE)
    options = {**SMALL, "metric": "logit_diff", "template": BARE}
    by_query = {p.input: p.input for p in task.pairs}
    for foil, wrong in [
        ("?", [model.encode("?", bos=False)[0]] * 3),
        (by_query, [model.encode(q.input, bos=False)[0] for q in queries]),
    ]:
        ranking = rank_heads(model, task, foil=foil, **options)
        check(ranking, by_hand(model, corrupted, z, metric="logit_diff", wrong=wrong))
    for foil, said in [({}, "names no alternative"), (queries[0].output, "begin with the same token")]:
        with pytest.raises(LensFVError, match=said):
            rank_heads(model, task, foil=foil, **options)
    with pytest.raises(LensFVError, match="only metric"):
        rank_heads(model, task, foil="?", **SMALL)


BARE = replace(TODD, query="{input}=", answer="{output}", separator=";")


def spelled() -> Task:
    """Pairs whose answers begin with a letter: toy answers all begin with a blank."""
    return Task("spelled", tuple(Pair(p.input, (p.input[1].upper() + p.input,)) for p in toy_task().pairs))


def test_top_is_sorted_and_inside_its_interval(tiny_model):
    ranking = rank_heads(tiny_model("llama"), toy_task(), **SMALL)
    heads = ranking.top()
    assert len(heads) == 12
    assert [h.effect.mean for h in heads] == sorted((h.effect.mean for h in heads), reverse=True)
    assert all(h.effect.ci_low <= h.effect.mean <= h.effect.ci_high for h in heads)
    assert heads[:3] == ranking.top(3)
    assert ranking.heads(3) == tuple((h.layer, h.head) for h in heads[:3])
    for n in (0, 13):
        with pytest.raises(LensFVError, match="has 12"):
            ranking.heads(n)


def made_up(tiny_model, effects):
    """A ranking of these effects."""
    made = rank_heads(tiny_model("llama"), toy_task(), **SMALL)
    return HeadRanking(
        made.provenance, effects, torch.zeros(len(effects)), made.z, made.post_attn_gain, made.resid_norm, "prob"
    )


def test_interval_covers_the_mean_as_often_as_it_says(tiny_model):
    """On 200 draws of 25 normal numbers each: a 95 % percentile bootstrap is a little narrow at n = 25, not much."""
    rng = torch.Generator().manual_seed(0)
    ranking = made_up(tiny_model, torch.randn(25, 3, 4, generator=rng))
    hits = 0
    for _ in range(17):
        low, high = replace(ranking, effects=torch.randn(25, 3, 4, generator=rng)).interval(resamples=500)
        hits += int(((low <= 0) & (high >= 0)).sum())
    assert 0.86 <= hits / (17 * 12) <= 0.99


def test_significant_heads_are_the_planted_ones(tiny_model):
    rng = torch.Generator().manual_seed(0)
    effects = torch.randn(20, 3, 4, generator=rng)
    effects[:, 1, 2] += 4
    effects[:, 2, 0] -= 4
    ranking = made_up(tiny_model, effects)
    for correction in ("holm", "max"):
        assert [h.name for h in ranking.significant(level=0.001, correction=correction)] == ["1.2", "2.0"]
    assert ranking.reliability(k=1).overlap == 1.0
    few = replace(ranking, effects=effects[:8], baseline=ranking.baseline[:8])
    assert {h.name for h in few.significant(correction="max")} >= {"1.2", "2.0"}
    with pytest.raises(LensFVError, match=r'8 samples give .* \(holm, 12 heads\); run 9 or use correction="max"$'):
        few.significant()
    with pytest.raises(LensFVError, match=r"4 samples give no p-value below 0.12 \(max, 12 heads\); run 6$"):
        replace(ranking, effects=effects[:4], baseline=ranking.baseline[:4]).significant(correction="max")
    with pytest.raises(LensFVError, match=r"; raise the level$"):
        ranking.significant(level=1e-7)


def test_layers_without_heads_are_no_tests(tiny_model):
    """A hybrid's layers without attention: no effect, so neither more tests to correct for nor ranks to agree on."""
    rng = torch.Generator().manual_seed(0)
    effects = torch.randn(12, 3, 4, generator=rng) + torch.linspace(0, 2, 4)
    effects[:, 1] = 0
    ranking = made_up(tiny_model, effects)
    alone = effects[:, [0, 2]].flatten(1).numpy()
    for correction in ("holm", "max", "bh"):
        p = ranking.p_values(correction=correction)
        assert (p[1] == 1).all()
        torch.testing.assert_close(p[[0, 2]].flatten(), torch.from_numpy(p_values(alone, correction=correction)))
    assert ranking.reliability(k=2) == split_half(alone, k=2)


def test_round_trip(tiny_model, tmp_path):
    for unit in ("head", "group"):
        ranking = rank_heads(tiny_model("gemma3"), toy_task(), unit=unit, **SMALL)
        again = load_artefact(ranking.save(tmp_path / "deep" / "r.safetensors"))
        assert isinstance(again, HeadRanking)
        assert torch.equal(again.effects, ranking.effects)
        assert again.provenance == ranking.provenance
        assert again.top(5) == ranking.top(5)
        assert again.unit == unit
        assert json.dumps(dict(again.provenance.options)) == json.dumps(dict(ranking.provenance.options))


def test_folder_keeps_what_was_made_in_the_same_way(tiny_model, tmp_path):
    model, task = tiny_model("llama"), toy_task()
    first = rank_heads(model, task, folder=tmp_path, **SMALL)
    (file,) = tmp_path.iterdir()
    replace(first, effects=first.effects + 1).save(file)  # so that one sees where the next comes from
    assert torch.equal(rank_heads(model, task, folder=tmp_path, **SMALL).effects, first.effects + 1)
    upgraded = replace(first.provenance, versions={"torch": "99"})
    assert artefact_path(tmp_path, HeadRanking, upgraded) == file
    for other in ({"seed": 1}, {"metric": "logprob"}, {"source": "zero"}, {"n_trials": 4}):
        rank_heads(model, task, folder=tmp_path, **{**SMALL, **other})
    assert len(list(tmp_path.iterdir())) == 5
    assert torch.equal(HeadRanking.load(file).effects, first.effects + 1)


def test_cards(tiny_model):
    ranking = rank_heads(tiny_model("llama"), toy_task(name="<b>toy"), **SMALL)
    assert repr(ranking).startswith("HeadRanking\n")
    html = ranking._repr_html_()
    assert html.count("<rect") == 12
    assert "&lt;b&gt;toy" in html


@pytest.mark.parametrize("metric", ["prob", "logit_diff"])
def test_hooks_that_do_not_fire_are_an_error(tiny_model, metric):
    """Heads whose outputs go nowhere: the all-zero result of a patch that never fired."""
    model = tiny_model("llama", fresh=True)
    for block in model.tl.blocks:
        block.attn.o.weight.data.zero_()
    with pytest.raises(LensFVError, match="no head changes anything"):
        rank_heads(model, toy_task(), metric=metric, **SMALL)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n_trials": 0}, "at least 1"),
        ({"n_shots": 500}, "500 shots"),
        ({"n_shots": 20}, "fewer than 20 shots"),
        ({"n_shots": 1}, "use 2 shots or more"),
        ({"n_shots": 0, "corruption": "zero_shot"}, "use 1 shots or more"),
        ({"corruption": "instruction"}, "give an instruction"),
        ({"corruption": "instruction", "instruction": "Go.", "other_instruction": "Go."}, "another or none"),
        ({"other_instruction": "Go."}, 'use corruption="instruction"'),
    ],
)
def test_bad_requests(tiny_model, options, said):
    with pytest.raises(LensFVError, match=said):
        rank_heads(tiny_model("llama"), toy_task(), **{**SMALL, **options})


def test_sources_of_another_model_are_refused(tiny_model):
    task = toy_task()
    with pytest.raises(LensFVError, match="made on model tiny-gpt2"):
        rank_heads(tiny_model("llama"), task, source=rank_heads(tiny_model("gpt2"), task, **SMALL), **SMALL)
    with pytest.raises(LensFVError, match="head outputs of shape"):
        rank_heads(tiny_model("llama"), task, source=head_means(tiny_model("qwen3"), [[1, 2]]), **SMALL)


def test_carry_is_one_without_a_norm_behind_attention(tiny_model):
    prompts = [[1, 2, 3, 4], [5, 6, 7]]
    for architecture in ("llama", "gpt2", "neox", "opt"):
        post_attn_gain = head_means(tiny_model(architecture), prompts).post_attn_gain
        torch.testing.assert_close(post_attn_gain, torch.ones_like(post_attn_gain), atol=1e-3, rtol=1e-3)
    post_attn_gain = head_means(tiny_model("gemma3"), prompts).post_attn_gain
    assert (post_attn_gain - 1).abs().mean() > 0.1
