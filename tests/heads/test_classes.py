"""Class effects against Todd et al.'s procedure, written out as a loop of hooked forward passes."""

import json
import re

import pytest
import torch
from helpers import toy_task
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from lens_fv.core.artefact import load_artefact
from lens_fv.errors import LensFVError
from lens_fv.heads import rank_heads
from lens_fv.heads.classes import ClassEffects, class_effects
from lens_fv.heads.means import slot_means
from lens_fv.tasks import TEMPLATES, Pair, PromptTemplate, Split, build_prompts, encode_prompt, few_shot, split_pairs
from lens_fv.tasks.token_classes import TOKEN_CLASSES, TemplatePosition, token_classes

SMALL = {"n_shots": 2, "n_clean": 3, "n_trials": 2}
PARTS = ["structural", "demonstration", "separator", "cue", "label", "end"]


def marked(prompt):
    """The class and a slot number for every character of a two-shot prompt in the paper's template, by its text alone.

    This tokenizer writes one token a character here, but for words that it has learned.
    """
    pattern = r"(Q:)( [^\n]+)(\n)(A:)(?:( [^\n]+)(\n\n))?"
    for example, found in enumerate(re.finditer(pattern, prompt.text)):
        for part, name in enumerate(PARTS):
            if found.group(part + 1) is not None:
                yield (example, part), name, found.span(part + 1), example == len(prompt.demonstrations)


def slots_by_hand(model, prompt):
    """{class: {slot: positions}}: a word is one slot, every other token one of its own."""
    offsets = model.tokenizer(prompt.text, return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"]
    by_class = {}
    for key, part, (begin, end), query in marked(prompt):
        inside = [i + 1 for i, (_, last) in enumerate(offsets) if begin < last <= end]  # + 1: the bos token
        for n, i in enumerate(inside):
            name = {"cue": "predictive" if i == inside[-1] else "structural", "end": "separator" if n else "end_of_example"}
            name = ("query_" if query else "") + name.get(part, part)
            slot = key if part in ("demonstration", "label") else (*key, n)
            by_class.setdefault(name, {}).setdefault(slot, []).append(i)
    return by_class


def z_of(model, tokens):
    seen = {}
    hooks = [
        (f"blocks.{layer}.attn.hook_z", lambda z, hook, layer=layer: seen.__setitem__(layer, z[0].clone()) or z)
        for layer in range(model.n_layers)
    ]
    model.forward(torch.tensor([tokens]), hooks)
    return seen


def by_hand(model, task, metric, names):
    split = split_pairs(task, seed=0)
    clean = build_prompts(split.validation, split.train, n_shots=2, n_prompts=3, seed=0)
    corrupt = build_prompts(split.validation, split.train, n_shots=2, n_prompts=2, seed=1, shuffle="permutation")
    means = {}
    for prompt in clean:
        z = z_of(model, encode_prompt(model, prompt).tokens)
        for slots in slots_by_hand(model, prompt).values():
            for slot, positions in slots.items():
                for layer in range(model.n_layers):
                    word = sum(z[layer][at] for at in positions) / len(positions)
                    means[slot, layer] = means.get((slot, layer), 0) + word / len(clean)

    def value(logits, answer):
        logprob = logits[0, -1].log_softmax(-1)[answer]
        return float(logprob.exp() if metric == "prob" else logprob)

    effects = torch.zeros(len(corrupt), model.n_layers, model.n_heads, len(names))
    for t, prompt in enumerate(corrupt):
        encoded = encode_prompt(model, prompt)
        tokens, answer = torch.tensor([encoded.tokens]), encoded.answers[0][0]
        base, by_class = value(model.forward(tokens), answer), slots_by_hand(model, prompt)
        for layer in range(model.n_layers):
            for head in range(model.n_heads):
                for k, name in enumerate(names):

                    def put(z, hook, layer=layer, head=head, slots=by_class[name]):
                        z = z.clone()
                        for slot, positions in slots.items():
                            for at in positions:
                                z[0, at, head] = means[slot, layer][head]
                        return z

                    hooks = [(f"blocks.{layer}.attn.hook_z", put)]
                    effects[t, layer, head, k] = value(model.forward(tokens, hooks), answer) - base
    return effects


@pytest.mark.parametrize(("architecture", "metric", "atol"), [("llama", "prob", 1e-6), ("gpt2", "logprob", 1e-4)])
def test_effects_are_the_reference_procedure(tiny_model, architecture, metric, atol):
    model, task = tiny_model(architecture), toy_task()
    found = class_effects(model, task, metric=metric, **SMALL)
    assert found.classes == TOKEN_CLASSES
    expected = by_hand(model, task, metric, TOKEN_CLASSES)
    torch.testing.assert_close(found.effects, expected, atol=atol, rtol=1e-3)
    assert (expected.abs().amax((0, 1, 2)) > 20 * atol).all()  # every class matters to some head


def test_the_last_query_token_is_what_rank_heads_edits(tiny_model):
    model, task = tiny_model("gemma3"), toy_task()
    found = class_effects(model, task, classes=["query_predictive"], **SMALL)
    ranking = rank_heads(model, task, **SMALL)
    torch.testing.assert_close(found.of("query_predictive"), ranking.effects, atol=1e-6, rtol=1e-3)
    torch.testing.assert_close(found.baseline, ranking.baseline, atol=1e-6, rtol=1e-4)
    assert not torch.equal(ranking.effects, torch.zeros_like(ranking.effects))


def test_one_pass_and_the_plain_loop_agree(tiny_model):
    model, task = tiny_model("qwen3"), toy_task()
    options = {**SMALL, "n_trials": 1, "metric": "logprob", "classes": ["label", "separator", "query_structural"]}
    fast, slow = (class_effects(model, task, backend=backend, **options).effects for backend in ("auto", "loop"))
    torch.testing.assert_close(fast, slow, atol=1e-4, rtol=1e-3)
    assert slow.abs().max() > 0.01


def test_a_template_without_a_class_leaves_it_out(tiny_model):
    model, task = tiny_model("llama"), toy_task()
    template = PromptTemplate(query="{input}>", answer="{output}", separator=";")
    names = ("demonstration", "label", "predictive", "end_of_example", "query_demonstration", "query_predictive")
    assert class_effects(model, task, template=template, **SMALL).classes == names
    with pytest.raises(LensFVError, match="'structural': prompts of this template have no such token"):
        class_effects(model, task, template=template, classes=["label", "structural"], **SMALL)


def test_means_go_by_slot(tiny_model):
    """Two prompts, their words of one, two and three tokens: each word's tokens first, then the prompts."""
    model = tiny_model("llama")
    prompts = [few_shot(Pair(q, ("x",)), [Pair(a, (b,))]) for q, a, b in (("a", "bc", "def"), ("gh", "i", "jk"))]
    means = slot_means(model, prompts)
    zs = [z_of(model, encode_prompt(model, prompt).tokens) for prompt in prompts]
    labels = [token_classes(model, prompt).positions("label") for prompt in prompts]
    assert [len(positions) for positions in labels] == [4, 3]  # a blank, and a token a letter
    by_prompt = [z[1][list(positions)].mean(0) for z, positions in zip(zs, labels)]
    torch.testing.assert_close(means[TemplatePosition(0, 4, 0)][1], (by_prompt[0] + by_prompt[1]) / 2)
    assert means[TemplatePosition(0, 4, 0)].shape == (model.n_layers, model.n_heads, model.d_head)
    assert set(means) == {s for prompt in prompts for s in token_classes(model, prompt).slots if s}


def test_a_slot_that_no_clean_prompt_has_is_an_error(tiny_model):
    """A tokenizer that joins "x" to the blank behind it: a prompt about "x" has no token for its word alone."""
    model = tiny_model("llama", fresh=True)
    spec = json.loads(model.tokenizer.backend_tokenizer.to_str())
    vocabulary, spec["model"]["merges"] = spec["model"]["vocab"], [["x", "Ġ"]]
    vocabulary["xĠ"] = vocabulary.pop(max(vocabulary, key=vocabulary.__getitem__))
    spec["pre_tokenizer"]["use_regex"] = False
    model.tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(spec)), bos_token="<bos>")
    train = tuple(Pair(f"a{i}", ("b",)) for i in range(4))
    split = Split(train, (Pair("x", ("y",)), Pair("uv", ("w",))), train)
    options = {"split": split, "template": TEMPLATES["arrow"], "n_shots": 2, "n_trials": 2}
    assert class_effects(model, toy_task(), n_clean=2, seed=0, **options).classes[-1] == "query_predictive"
    with pytest.raises(LensFVError, match=r"no clean prompt has a token at .* more clean prompts"):
        class_effects(model, toy_task(), n_clean=1, seed=0, **options)


@pytest.fixture(scope="module")
def made(tiny_model):
    return class_effects(tiny_model("llama"), toy_task(), metric="logprob", **SMALL)


def test_top_is_sorted_inside_its_interval_and_by_class(made):
    every = made.top()
    assert len(every) == 3 * 4 * 10
    assert [e.effect.mean for e in every] == sorted((e.effect.mean for e in every), reverse=True)
    assert all(e.effect.ci_low - 1e-6 <= e.effect.mean <= e.effect.ci_high + 1e-6 for e in every)
    labels = made.top(5, token_class="label")
    assert labels == [e for e in every if e.token_class == "label"][:5]
    assert labels[0].effect.mean == pytest.approx(float(made.of("label").mean(0).max()))
    with pytest.raises(LensFVError, match="'labels': measured were demonstration, label"):
        made.top(token_class="labels")


def test_the_grid_has_each_layers_strongest_head(made):
    for layer in range(3):
        for k in range(10):
            head = int(made.strongest()[layer, k])
            effects = made.mean[layer, :, k].tolist()
            assert made.heatmap_data()[layer, k] == effects[head]
            assert abs(effects[head]) == max(map(abs, effects))


def test_round_trip_and_card(made, tmp_path):
    again = load_artefact(made.save(tmp_path / "c.safetensors"))
    assert isinstance(again, ClassEffects)
    assert torch.equal(again.effects, made.effects)
    assert (again.classes, again.metric, again.provenance) == (made.classes, made.metric, made.provenance)
    best = made.top(1, token_class="query_predictive")[0]
    assert f"{best.name} {best.effect:+.3g}" in made.summary()["top head at query_predictive"]
    assert made._repr_html_().count("<rect") == 3 * 10


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n_trials": 0}, "at least 1"),
        ({"n_shots": 500}, "500 shots"),
        ({"classes": ["labels"]}, "choose from demonstration, label"),
    ],
)
def test_bad_requests(tiny_model, options, said):
    with pytest.raises(LensFVError, match=said):
        class_effects(tiny_model("llama"), toy_task(), **{**SMALL, **options})
