"""Heads ranked by an instruction, and what stands in the instruction's place."""

from dataclasses import replace

import pytest
import torch
from helpers import toy_task

from lens_fv.errors import LensFVError
from lens_fv.heads import counterpart_text, rank_instruction_heads
from lens_fv.heads.counterparts import NEAREST, plain_text
from lens_fv.heads.instructed import _noised_tokens
from lens_fv.tasks import TODD, build_prompts, encode_prompts, few_shot, split_pairs
from lens_fv.tasks.token_classes import token_classes

SAYING = "Give the simple past tense of the verb."


def logprobs(model, ids):
    begin = model.tokenizer.bos_token_id
    return [model.forward(torch.tensor([[begin, *ids[:i]]]))[0, -1].log_softmax(-1) for i in range(len(ids))]


def test_nothing_and_another(tiny_model):
    model = tiny_model("llama")
    assert counterpart_text(model, SAYING, "none") is None
    assert counterpart_text(model, SAYING, "other", others=[SAYING, "Name the capital."]) == "Name the capital."
    with pytest.raises(LensFVError, match=r"another instruction than .*: 1 are given"):
        counterpart_text(model, SAYING, "other", others=[SAYING])


def test_running_text_is_as_long_and_as_likely_as_can_be(tiny_model):
    model = tiny_model("llama")
    n = len(model.encode(SAYING, bos=False))
    found = counterpart_text(model, SAYING, "real_text")
    assert found in plain_text()
    assert len(model.encode(found, bos=False)) == n

    def mean(text):
        ids = model.encode(text, bos=False)
        return sum(float(p[t]) for p, t in zip(logprobs(model, ids), ids, strict=True)) / len(ids)

    words = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    windows = [" ".join(words.split()[i:]) for i in range(14)]
    cut = [model.tokenizer.decode(ids[:n]) for text in windows for ids in [model.encode(text, bos=False)] if len(ids) >= n]
    assert len(cut) > 1
    best = min(cut, key=lambda text: abs(mean(text) - mean(SAYING)))
    assert counterpart_text(model, SAYING, "real_text", text=words) == best
    with pytest.raises(LensFVError, match="the text has 2 words; give more"):
        counterpart_text(model, SAYING, "real_text", text="too short")


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_random_tokens_are_each_as_likely_as_the_instructions_own(tiny_model, name):
    model = tiny_model(name)
    own = model.encode(SAYING, bos=False)
    found = counterpart_text(model, SAYING, "equiprobable")
    ids = model.encode(found, bos=False)
    assert len(ids) == len(own)
    assert found != counterpart_text(model, SAYING, "equiprobable", seed=1)
    assert found == counterpart_text(model, SAYING, "equiprobable", seed=0)
    for before, after, token, was in zip(logprobs(model, own), logprobs(model, ids), ids, own, strict=True):
        distance = (after - before[was]).abs()
        assert (
            int((distance < distance[token]).sum()) < NEAREST + 2
        )  # the two that cannot be taken: its own and the special one
        assert token != was


def test_half_of_the_tokens_stay(tiny_model):
    model = tiny_model("llama")
    own = model.encode(SAYING, bos=False)
    ids = model.encode(counterpart_text(model, SAYING, "half"), bos=False)
    assert sum(a == b for a, b in zip(own, ids, strict=True)) == len(own) // 2


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("counterpart", ["none", "equiprobable", "noise_on_instruction", "noise_on_query"])
def test_effects_against_a_loop_of_forward_passes(tiny_model, name, counterpart):
    model, task = tiny_model(name), replace(toy_task(), instructions=("Say it.", "Write what follows."))
    found = rank_instruction_heads(model, task, counterpart=counterpart, n_clean=4, n_trials=3, n_shots=1)
    layer, head = found.heads(1)[0]
    noisy = counterpart.startswith("noise")
    said = [found.provenance.options["counterparts"][i % 2] if not noisy else task.instructions[i % 2] for i in range(3)]
    if counterpart == "none":
        assert said == [None] * 3
    split = split_pairs(task, seed=0)

    def written(n, texts, seed):
        made = [
            build_prompts(split.validation, split.train, n_shots=1, n_prompts=n, instruction=text, seed=seed) for text in texts
        ]
        return [made[i][i] for i in range(n)]

    clean = encode_prompts(model, written(4, [task.instructions[i % 2] for i in range(4)], 0))
    corrupted = written(3, said, 1)
    kept = []
    for prompt in clean:
        model.forward(
            torch.tensor([prompt.tokens]),
            [(f"blocks.{layer}.attn.hook_z", lambda x, hook: kept.append(x[0, -1, head].clone()) or x)],
        )
    mean = torch.stack(kept).mean(0)
    torch.testing.assert_close(found.z[layer, head], mean, atol=1e-5, rtol=1e-4)
    if noisy:
        return

    def put(x, hook):
        x = x.clone()
        x[0, -1, head] = mean
        return x

    for t, prompt in enumerate(encode_prompts(model, corrupted)):
        tokens, answer = torch.tensor([prompt.tokens]), prompt.answers[0][0]
        plain, patched = (
            float(model.forward(tokens, hooks)[0, -1].softmax(-1)[answer])
            for hooks in ([], [(f"blocks.{layer}.attn.hook_z", put)])
        )
        assert float(found.baseline[t]) == pytest.approx(plain, abs=1e-6)
        assert float(found.effects[t, layer, head]) == pytest.approx(patched - plain, abs=1e-6)


@pytest.mark.parametrize(("counterpart", "expected"), [("noise_on_instruction", "Say it."), ("noise_on_query", " ab0")])
def test_noise_falls_on_what_it_is_called_after(tiny_model, counterpart, expected):
    model = tiny_model("llama")
    task = toy_task()
    prompt = few_shot(replace(task.pairs[0], input="ab0"), [task.pairs[1]], instruction="Say it.")
    at = _noised_tokens(model, prompt, TODD, counterpart)
    ids = model.encode(prompt.text)
    assert model.tokenizer.decode([ids[i] for i in at]) == expected
    assert len(token_classes(model, prompt).classes) == len(ids)


def test_noise_changes_the_baseline(tiny_model):
    model, task = tiny_model("llama"), toy_task()
    none, small, large = (
        rank_instruction_heads(model, task, counterpart="noise_on_query", noise=noise, n_clean=2, n_trials=3).baseline
        for noise in (0.0, 1.0, 10.0)
    )
    assert float((small - none).abs().max()) > 0
    assert float((large - none).abs().max()) > float((small - none).abs().max())


def test_what_cannot_be_ranked_is_said(tiny_model):
    model = tiny_model("llama")
    with pytest.raises(LensFVError, match="by the instructions of toy: it has none"):
        rank_instruction_heads(model, replace(toy_task(), instructions=()))
    with pytest.raises(LensFVError, match=r"n_clean=0.*at least 1"):
        rank_instruction_heads(model, toy_task(), n_clean=0)


def test_other_instructions_come_from_the_built_in_relations(tiny_model):
    found = rank_instruction_heads(tiny_model("llama"), toy_task(), counterpart="other", n_clean=1, n_trials=1)
    (other,) = found.provenance.options["counterparts"]
    assert other
    assert other != "Say it."
