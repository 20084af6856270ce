"""Definition vectors and causal tracing, against plain runs with hooks."""

from dataclasses import replace

import pytest
import torch

from lens_fv import LensFVError
from lens_fv.heads.protocol import noise_on
from lens_fv.knowledge import (
    Entity,
    EntityProbe,
    KnowledgeTrace,
    at_mentions,
    causal_trace,
    definition_vectors,
    score_probes,
    score_probes_by_branch,
)
from lens_fv.knowledge.evaluate import probe_prompts
from lens_fv.knowledge.mentions import find_mention, probe_mentions

PROBES = (EntityProbe("Today Velm walked to ___.", "A", ("Q", "A")), EntityProbe("Velm is a ___ that talks.", "Q"))
VELM = Entity("Velm", "Velm talked, talked and walked to A.", probes=PROBES)
ASKED = (EntityProbe("Then So Orla ___.", "walked", ("A", "walked")),)
ORLA = Entity("So Orla", "So Orla is a Q that asks.", ("Orla",), probes=ASKED)
BOTH = [VELM, ORLA]


def states(model, tokens, hooks=()):
    """The residual stream after each layer at all tokens, one plain run."""
    kept = {}

    def keep(layer):
        return lambda x, hook: kept.__setitem__(layer, x[0].clone())

    names = [(f"blocks.{layer}.hook_resid_post", keep(layer)) for layer in range(model.n_layers)]
    with torch.no_grad(), model.hooks([*hooks, *names]):
        model.forward(torch.tensor([tokens]))
    return torch.stack([kept[layer] for layer in range(model.n_layers)])


def logprob(model, prompt, answer, hooks=()):
    with torch.no_grad(), model.hooks(hooks):
        logits = model.forward(torch.tensor([[*prompt, *answer]]))[0, len(prompt) - 1 : -1]
    return float(logits.log_softmax(-1)[range(len(answer)), list(answer)].sum())


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
def test_the_name_is_found_in_the_tokens(tiny_model, architecture):
    model = tiny_model(architecture)
    walked = "Today Velm walked"
    for entity, text, definition in ((VELM, walked, ""), (VELM, walked, VELM.definition), (ORLA, "Is Orla?", "")):
        tokens, first, last = find_mention(model, entity, text, definition=definition)
        assert model.tokenizer.decode(tokens[first : last + 1]).strip() == ("Velm" if entity is VELM else "Orla")
        assert model.tokenizer.decode(tokens[first:]).strip() == text[text.index("Velm" if entity is VELM else "Orla") :]
    with pytest.raises(LensFVError, match="find Velm in 'Nobody walked': it is not mentioned there"):
        find_mention(model, VELM, "Nobody walked")


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_a_definition_vector_is_the_difference_that_reading_makes(tiny_model, architecture):
    model = tiny_model(architecture)
    found = definition_vectors(model, BOTH, texts=["See {name}", "{name} is"])
    for entity, vector in zip(BOTH, found, strict=True):
        texts, differences = (f"See {entity.name}", f"{entity.name} is"), []
        for text in texts:
            bare, read = (find_mention(model, entity, text, definition=each) for each in ("", entity.definition))
            differences.append(states(model, read.tokens)[:, read.last] - states(model, bare.tokens)[:, bare.last])
        torch.testing.assert_close(vector, torch.stack(differences).mean(0), atol=1e-4, rtol=1e-4)
    # what reads nothing adds nothing
    assert not definition_vectors(model, BOTH, context={}).any()
    with pytest.raises(LensFVError, match="no text names them"):
        definition_vectors(model, BOTH, texts=[])


def test_vectors_are_added_where_probes_name_their_entities(tiny_model):
    model, layer = tiny_model("llama"), 1
    vectors = torch.randn(2, model.n_layers, model.d_model, generator=torch.Generator().manual_seed(0))
    plain, edited = score_probes_by_branch(model, BOTH, [(), [at_mentions(model, BOTH, vectors, layer, scale=2.0)]])
    assert torch.equal(plain.logprobs, score_probes(model, BOTH).logprobs)
    prompts, places = probe_prompts(model, BOTH), probe_mentions(model, BOTH)
    for row, (prompt, place) in enumerate(zip(prompts, places, strict=True)):
        own = vectors[0 if row < 2 else 1, layer]

        def add(x, hook, place=place, own=own):
            x[0, place.last] += 2 * own
            return x

        for column, answer in enumerate(prompt.answers):
            expected = logprob(model, prompt.tokens, answer, [(f"blocks.{layer}.hook_resid_post", add)])
            assert float(edited.logprobs[row, column]) == pytest.approx(expected, abs=1e-3)
    with pytest.raises(LensFVError, match="vectors of 1 entities where 2 are named"):
        at_mentions(model, BOTH, vectors[:1], layer)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
def test_tracing_restores_one_state_at_a_time(tiny_model, architecture, tmp_path):
    model = tiny_model(architecture)
    trace = causal_trace(model, BOTH, noise=2.0, seed=3)
    prompts, places = probe_prompts(model, BOTH), probe_mentions(model, BOTH)
    prompts = [replace(p, answers=(p.answers[i],)) for p, i in zip(prompts, (1, 0, 1), strict=True)]
    assert trace.entities == ("Velm", "Velm", "So Orla")
    noise = noise_on(model, prompts, [list(range(m.first, m.last + 1)) for m in places], 2.0, 3)
    layer, head = 1, 2
    for row, (prompt, place) in enumerate(zip(prompts, places, strict=True)):
        answer, tokens = prompt.answers[0], list(prompt.tokens)
        clean, kept = states(model, tokens), {}

        def drown(x, hook, row=row):
            for edit in noise[row]:
                x[0, edit.position] += edit.value
            return x

        def keep(x, hook, kept=kept):
            kept["z"] = x.clone()

        def restore(x, hook, place=place, kept=kept):
            x[0, place.last, head] = kept["z"][0, place.last, head]
            return x

        def restore_stream(x, hook, place=place, clean=clean):
            x[0, place.last] = clean[layer, place.last]
            return x

        logprob(model, tokens, answer, [(f"blocks.{layer}.attn.hook_z", keep)])
        noisy = [("blocks.0.hook_resid_pre", drown)]
        one_head = [*noisy, (f"blocks.{layer}.attn.hook_z", restore)]
        stream = [*noisy, (f"blocks.{layer}.hook_resid_post", restore_stream)]
        for found, hooks in (
            (trace.clean[row], []),
            (trace.noisy[row], noisy),
            (trace.heads[row, 0, layer, head], one_head),
            (trace.resid[row, 0, layer], stream),
        ):
            assert float(found) == pytest.approx(logprob(model, tokens, answer, hooks), abs=1e-3)
    # behind the last layer the last token's state is all that counts for an answer of one token
    assert [len(prompt.answers[0]) for prompt in prompts][-1] == 1
    assert float(trace.resid[-1, 1, -1]) == pytest.approx(float(trace.clean[-1]), abs=1e-3)
    assert not torch.allclose(trace.clean, trace.noisy)
    again = KnowledgeTrace.load(trace.save(tmp_path / "trace.safetensors"))
    assert torch.equal(again.layer_effects, trace.layer_effects)
    assert "at the mention" in repr(again)
