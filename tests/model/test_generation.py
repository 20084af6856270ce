"""Text that a model writes, against a loop of whole passes of the transformers model, without any cache."""

import inspect
import logging
from dataclasses import replace

import pytest
import torch
import transformers
from helpers import tokens, toy_task
from transformers import BatchEncoding

from lens_fv.core.artefact import Provenance
from lens_fv.errors import LensFVError
from lens_fv.model import LensModel
from lens_fv.model.cache import cache_argument, cache_of, keeps_cache
from lens_fv.model.exclusive import hooks_off
from lens_fv.model.generation import Sampling, generate_tokens
from lens_fv.vectors import FunctionVector
from lens_fv.vectors.baselines import SoftPrompt, train_adapter

FAMILIES = ("llama", "qwen2", "gpt2", "gemma3")
N = 20
PROMPTS = [tokens(9, seed=0), tokens(4, seed=1), tokens(9, seed=2)]
END = 0


def loop(logits, prompt: list[int], n: int = N) -> list[int]:
    """What greedy generation means: `logits` of a whole text, and the likeliest token after it, again and again."""
    text = list(prompt)
    for _ in range(n):
        text.append(int(logits(torch.tensor([text]))[0, -1].argmax()))
        if text[-1] == END:
            break
    return text[len(prompt) :]


@torch.no_grad()
def own_text(hf, prompt: list[int]) -> list[int]:
    return loop(lambda text: hf(text, use_cache=False).logits, prompt)


def text_of(model: LensModel, rows: list[list[int]]) -> list[str]:
    return [model.tokenizer.decode(row, skip_special_tokens=True) for row in rows]


def vector_at(model: LensModel, site: str = "resid_post") -> FunctionVector:
    """A vector long enough to change the text, or the outputs of two heads."""
    rng = torch.Generator().manual_seed(1)
    return FunctionVector(
        provenance=Provenance.of(model, task="toy", task_hash="", prompts=[], seed=0, method="test", options={}),
        vector=4 * torch.randn(model.d_model, generator=rng),
        head_outputs=4 * torch.randn(2, model.d_head, generator=rng),
        heads=((0, 1), (2, 3)),
        layer=1,
        resid_norm=1.0,
        site=site,
    )


# -- without edits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_twenty_tokens_are_transformers_own(tiny_model, huggingface_model, family):
    """With the cache and without, ours and transformers' own."""
    model, hf = tiny_model(family), huggingface_model(family)
    want = [own_text(hf, prompt) for prompt in PROMPTS]
    for use_cache in (True, False, None):
        assert generate_tokens(model, PROMPTS, Sampling(N), use_cache=use_cache) == want
        for prompt, new in zip(PROMPTS, want, strict=True):
            ids = torch.tensor([prompt])
            mask, use = torch.ones_like(ids), use_cache is not False
            text = hf.generate(ids, attention_mask=mask, max_new_tokens=N, do_sample=False, use_cache=use)
            assert text[0, len(prompt) :].tolist() == new
    assert keeps_cache(model)
    assert len({tuple(new) for new in want}) > 1 and max(map(len, want)) == N


@pytest.mark.filterwarnings("ignore:.*past_key_values:FutureWarning")  # TransformerLens uses the old name
@pytest.mark.parametrize("family", FAMILIES)
def test_a_wrapped_bridges_own_generate_is_right_too(tiny_model, huggingface_model, family):
    model, hf = tiny_model(family), huggingface_model(family)
    text = model.tl.generate(torch.tensor(PROMPTS[:1]), max_new_tokens=N, do_sample=False, verbose=False)
    assert text[0, len(PROMPTS[0]) :].tolist()[:N] == own_text(hf, PROMPTS[0])


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_may_be_padded_on_either_side(tiny_model, huggingface_model, side):
    model, hf, longest = tiny_model("llama"), huggingface_model("llama"), max(map(len, PROMPTS))

    def padded(row: list[int], fill: int) -> list[int]:
        padding = [fill] * (longest - len(row))
        return [*padding, *row] if side == "left" else [*row, *padding]

    masks = [padded([1] * len(row), 0) for row in PROMPTS]
    batch = BatchEncoding({"input_ids": [padded(row, 0) for row in PROMPTS], "attention_mask": masks}, tensor_type="pt")
    want = text_of(model, [own_text(hf, row) for row in PROMPTS])
    assert model.generate(batch) == model.generate(PROMPTS) == want
    with pytest.raises(LensFVError, match="without attention_mask"):
        model.generate({"input_ids": batch["input_ids"]})


def test_a_text_is_given_back_for_a_text(tiny_model, huggingface_model):
    model, hf = tiny_model("gpt2"), huggingface_model("gpt2")
    texts = ["Q: walk\nA:", "Q: talk"]
    want = text_of(model, [own_text(hf, model.encode(text))[:5] for text in texts])
    assert model.generate(texts, max_new_tokens=5) == want
    assert model.generate(texts[0], max_new_tokens=5) == want[0]
    assert model.generate([]) == []


def test_an_end_token_ends_the_text_and_is_not_part_of_it(tiny_model):
    model = tiny_model("llama", fresh=True)
    third = generate_tokens(model, PROMPTS[:1], Sampling(5))[0][2]
    model.tl.original_model.generation_config.eos_token_id = [END, third]
    assert generate_tokens(model, PROMPTS[:1], Sampling(5))[0][-1] == third
    assert len(generate_tokens(model, PROMPTS[:1], Sampling(5))[0]) <= 3
    lone = generate_tokens(model, PROMPTS, Sampling(N))
    assert lone == [generate_tokens(model, [prompt], Sampling(N))[0] for prompt in PROMPTS]


def test_a_models_own_settings_do_not_change_what_greedy_means(tiny_model):
    model = tiny_model("llama", fresh=True)
    plain = generate_tokens(model, PROMPTS, Sampling(N))
    settings = transformers.GenerationConfig(do_sample=True, repetition_penalty=5.0, num_beams=2, max_length=11)
    model.tl.original_model.generation_config = settings
    assert generate_tokens(model, PROMPTS, Sampling(N)) == plain
    assert model.tl.original_model.generation_config is settings


def test_draws_are_the_seeds(tiny_model):
    model, options = tiny_model("llama"), {"do_sample": True, "temperature": 2.0}
    draws = [model.generate(PROMPTS, seed=seed, **options) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    state = torch.get_rng_state()
    model.generate(PROMPTS, seed=3, **options)
    assert torch.equal(state, torch.get_rng_state())
    greedy = model.generate(PROMPTS)
    assert model.generate(PROMPTS, do_sample=True, top_k=1) == greedy != draws[0]
    assert model.generate(PROMPTS, do_sample=True, top_p=1e-6) == greedy


@pytest.mark.parametrize(
    ("prompts", "options", "said"),
    [
        ([[]], {}, "prompt of 0"),
        ([[1] * 250], {}, "reads 256 in all"),
        ("a", {"max_new_tokens": 0}, "max_new_tokens"),
        ("a", {"do_sample": True, "temperature": 0.0}, "temperature=0.0.*above 0"),
        ("a", {"do_sample": True, "temperature": float("nan")}, "temperature=nan.*above 0"),
        ("a", {"top_p": 1.5}, "top_p"),
        ("a", {"top_k": -1}, "top_k"),
    ],
)
def test_what_cannot_be_generated_is_refused(tiny_model, prompts, options, said):
    with pytest.raises(LensFVError, match=said):
        tiny_model("llama").generate(prompts, **options)


# -- edited -----------------------------------------------------------------------------------------------------------


def with_vector(model: LensModel, vector: FunctionVector, prompt: list[int]) -> list[int]:
    """The loop, with the vector put on the prompt's last token and all that come after it, by hooks written out here."""
    start = len(prompt) - 1

    def add(x, hook):
        return torch.cat([x[:, :start], x[:, start:] + vector.vector], 1)

    def put(layer):
        def change(z, hook):
            z = z.clone()
            for (at, head), value in zip(vector.heads, vector.head_outputs, strict=True):
                if at == layer:
                    z[:, start:, head] = value
            return z

        return change

    hooks = [(f"blocks.{at}.attn.hook_z", put(at)) for at in (0, 2)]
    hooks = hooks if vector.site == "heads" else [("blocks.1.hook_resid_post", add)]
    return loop(lambda text: model.forward(text, hooks), prompt)


@pytest.mark.parametrize(("family", "site"), [*((family, "resid_post") for family in FAMILIES), ("gemma3", "heads")])
def test_a_vector_acts_on_the_last_token_and_on_every_new_one(tiny_model, family, site):
    model = tiny_model(family)
    vector = vector_at(model, site)
    want = [with_vector(model, vector, prompt) for prompt in PROMPTS]
    plain = generate_tokens(model, PROMPTS, Sampling(N))
    for use_cache in (True, False):
        with vector.applied(model):
            assert generate_tokens(model, PROMPTS, Sampling(N), use_cache=use_cache) == want
    assert plain != want
    assert generate_tokens(model, PROMPTS, Sampling(N)) == plain


@pytest.mark.parametrize("position", [0, 2, -2, -4])
def test_another_position_is_one_of_the_prompt(tiny_model, position):
    """Counted from either end of each prompt, though they differ in length, and edited once."""
    model = tiny_model("llama")
    vector = vector_at(model)

    def steered(prompt: list[int]) -> list[int]:
        at = position % len(prompt)

        def add(x, hook):
            return torch.cat([x[:, :at], x[:, at : at + 1] + vector.vector, x[:, at + 1 :]], 1)

        return loop(lambda text: model.forward(text, [("blocks.1.hook_resid_post", add)]), prompt)

    want = [steered(prompt) for prompt in PROMPTS]
    for use_cache in (True, False):
        with vector.applied(model, position=position):
            assert generate_tokens(model, PROMPTS, Sampling(N), use_cache=use_cache) == want
    assert want != generate_tokens(model, PROMPTS, Sampling(N))


@pytest.mark.parametrize("position", [4, -5])
def test_a_position_that_a_prompt_does_not_have_is_refused(tiny_model, position):
    model = tiny_model("llama")
    with vector_at(model).applied(model, position=position):
        with pytest.raises(LensFVError, match=f"position {position}: the text has 4 tokens"):
            model.generate(PROMPTS[1:2])
        with pytest.raises(LensFVError, match=f"position {position}: the text has 4 tokens"):
            model.forward(torch.tensor(PROMPTS[1:2]))
    assert model.generation is None


@pytest.mark.parametrize("prepend_bos", [True, False])
@pytest.mark.parametrize("n", [1, 3])
def test_a_soft_prompt_stands_in_front_of_every_prompt(tiny_model, huggingface_model, n, prepend_bos):
    """Against transformers' own model on embeddings: Llama's residual stream begins as its embedding."""
    hf = huggingface_model("llama")
    model = LensModel.wrap(tiny_model("llama").tl, name="tiny-llama", prepend_bos=prepend_bos)
    states = torch.randn(n, model.d_model, generator=torch.Generator().manual_seed(2))
    provenance = Provenance.of(model, task="toy", task_hash="", prompts=[], seed=0, method="test", options={})
    soft, embed, start = SoftPrompt(provenance=provenance, states=states), hf.get_input_embeddings(), int(prepend_bos)

    def logits(text):
        x = embed(text)
        return hf(inputs_embeds=torch.cat([x[:, :start], states[None], x[:, start:]], 1), use_cache=False).logits

    with torch.no_grad():
        want = [loop(logits, prompt) for prompt in PROMPTS]
    for use_cache in (True, False, None):
        with soft.applied(model):
            assert model.generate(PROMPTS, use_cache=use_cache) == text_of(model, want)
    assert model.generate(PROMPTS) == text_of(model, [own_text(hf, prompt) for prompt in PROMPTS]) != text_of(model, want)


def test_an_adapter_writes_what_its_own_passes_say(tiny_model):
    model = tiny_model("llama")
    adapter = train_adapter(model, toy_task(), rank=2, n_pairs=2, steps=1)
    adapter = replace(adapter, q_up=torch.randn_like(adapter.q_up), v_up=torch.randn_like(adapter.v_up))
    plain = generate_tokens(model, PROMPTS, Sampling(N))
    with adapter.applied(model):
        want = [loop(model.forward, prompt) for prompt in PROMPTS]
        assert generate_tokens(model, PROMPTS, Sampling(N)) == want != plain
    assert generate_tokens(model, PROMPTS, Sampling(N)) == plain


# -- the cache --------------------------------------------------------------------------------------------------------


def test_a_model_whose_cache_is_wrong_goes_without(tiny_model, caplog):
    """A block that answers by how many tokens it is called with; inside a vector's block too."""
    model = tiny_model("llama", fresh=True)
    model.tl.blocks[1].register_forward_pre_hook(lambda block, args: (args[0] * (1 + args[0].shape[1] / 20), *args[1:]))
    vector = vector_at(model)
    want = [with_vector(model, vector, prompt) for prompt in PROMPTS]
    with caplog.at_level(logging.WARNING, logger="lens_fv"), vector.applied(model):
        assert generate_tokens(model, PROMPTS, Sampling(N)) == want
    assert "text is generated without it" in caplog.text
    assert not keeps_cache(model)
    assert generate_tokens(model, PROMPTS, Sampling(N)) == [loop(model.forward, prompt) for prompt in PROMPTS]
    assert generate_tokens(model, PROMPTS, Sampling(N), use_cache=True) != generate_tokens(model, PROMPTS, Sampling(N))


def test_the_cache_is_judged_without_the_vector_that_is_applied(tiny_model):
    model = tiny_model("llama", fresh=True)
    name = "blocks.1.hook_resid_post"
    with model.hooks([(name, lambda x, hook: x * x.shape[1])]):  # by how many tokens a pass has
        assert keeps_cache(model)
        seen = model.forward(torch.tensor(PROMPTS[:1]))
    with pytest.raises(ZeroDivisionError), model.hooks([(name, lambda x, hook: x * 2)]):
        twice = model.forward(torch.tensor(PROMPTS[:1]))
        with hooks_off(model.tl):
            plain = model.forward(torch.tensor(PROMPTS[:1]))
            raise ZeroDivisionError
    assert torch.equal(plain, model.forward(torch.tensor(PROMPTS[:1])))
    assert not torch.equal(plain, twice) and not torch.equal(plain, seen)


def test_a_forward_is_handed_its_cache_by_the_name_that_it_takes():
    def new(input_ids, cache=None): ...

    def old(input_ids, past_key_values=None): ...

    def any_other(input_ids, **kwargs): ...

    assert [cache_argument(f, 3) for f in (new, old, any_other)] == [{"cache": 3}, *[{"past_key_values": 3}] * 2]


@pytest.mark.parametrize("family", ["llama", "mamba"])
def test_an_outputs_cache_is_found_by_either_name(huggingface_model, family):
    hf = huggingface_model(family)
    kept = cache_of(hf(torch.tensor([[1, 2]]), use_cache=True))
    named = inspect.signature(transformers.MambaForCausalLM.forward).parameters  # `cache_params` up to transformers 5.23
    assert (kept is not None) == (family == "llama" or "cache" in named)
    assert cache_of(hf(torch.tensor([[1, 2]]), use_cache=False)) is None
