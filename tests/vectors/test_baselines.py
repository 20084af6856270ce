"""Other kinds of vectors: each against plain forward passes."""

from functools import partial

import peft
import pytest
import torch
from helpers import toy_task

from lens_fv.errors import LensFVError
from lens_fv.evaluation import evaluate, load_artefact
from lens_fv.heads import rank_heads
from lens_fv.patching import score_answers
from lens_fv.tasks import build_prompts, encode_prompts, split_pairs, zero_shot
from lens_fv.vectors import random_like
from lens_fv.vectors.baselines import mean_state, task_state, train_adapter, train_head_weights, train_soft_prompt
from lens_fv.vectors.baselines.head_weights import head_writes
from lens_fv.vectors.baselines.lora import projections
from lens_fv.vectors.examples import validation_prompts

FEW = {"n_pairs": 8, "steps": 5}
SHOTS = {"n_shots": 2, "n_prompts": 3}
MAKERS = {
    "mean_state": lambda model, task, **o: mean_state(model, task, **SHOTS, **o),
    "mean_difference": lambda model, task, **o: mean_state(model, task, subtract="zero_shot", **SHOTS, **o),
    "task_state": lambda model, task, **o: task_state(model, task, n_shots=2, **o),
    "head_weights": lambda model, task, **o: train_head_weights(model, task, **SHOTS, **FEW, **o),
    "soft_prompt": lambda model, task, **o: train_soft_prompt(model, task, n_tokens=3, **FEW, **o),
    "lora": lambda model, task, **o: train_adapter(model, task, **FEW, **o),
}
LEARNED = ("head_weights", "soft_prompt", "lora")


def states(model, split, n_shots, n_prompts):
    """Last-token states after every layer, by TransformerLens' own cache."""
    prompts = build_prompts(split.train, split.train, n_shots=n_shots, n_prompts=n_prompts)
    last_states = []
    for prompt in encode_prompts(model, prompts):
        _, cache = model.tl.run_with_cache(torch.tensor([prompt.tokens]))
        last_states.append(torch.stack([cache[f"blocks.{layer}.hook_resid_post"][0, -1] for layer in range(model.n_layers)]))
    return torch.stack(last_states)


def logprob(model, prompt, **options):
    """Of the primary answer, from one plain forward."""
    answer = prompt.answers[0]
    logits = model.forward(torch.tensor([[*prompt.tokens, *answer]]), **options)[0, len(prompt.tokens) - 1 : -1]
    return logits.log_softmax(-1)[range(len(answer)), list(answer)].sum()


def test_mean_state_is_the_mean_of_cached_states(any_model):
    model, task = any_model, toy_task()
    mean = states(model, split_pairs(task), 2, 3).mean(0)
    vector = mean_state(model, task, layers=1, scales=2.0, **SHOTS)
    torch.testing.assert_close(vector.vector, 2 * mean[1], atol=1e-4, rtol=1e-4)
    difference = mean_state(model, task, layers=1, scales=1.0, subtract="zero_shot", **SHOTS)
    torch.testing.assert_close(
        difference.vector, (mean - states(model, split_pairs(task), 0, 3).mean(0))[1], atol=1e-4, rtol=1e-4
    )


def test_task_state_replaces(any_model):
    """Its logits are those of a plain forward in which a hook overwrites the state."""
    model, task = any_model, toy_task()
    vector, prompt = task_state(model, task, layers=1, n_shots=2), (0, 5, 6, 7)
    state = states(model, split_pairs(task), 2, 1)[0, 1]
    torch.testing.assert_close(vector.vector, state, atol=1e-4, rtol=1e-4)

    def overwrite(x, hook):
        x = x.clone()
        x[:, -1] = state
        return x

    expected = model.forward(torch.tensor([prompt]), [("blocks.1.hook_resid_post", overwrite)])
    with vector.applied(model):
        torch.testing.assert_close(model.forward(torch.tensor([prompt])), expected, atol=1e-4, rtol=1e-4)
    control = random_like(vector)
    assert (control.site, control.layer) == ("state", 1)


def test_layer_and_scale_are_the_best_on_validation(tiny_model):
    """Against a hook and a forward pass for every layer, scale and pair."""
    model, task = tiny_model("llama"), toy_task()
    vector = mean_state(model, task, scales=(0.5, 2.0), **SHOTS)
    mean, means = states(model, split_pairs(task), 2, 3).mean(0), {}
    for layer in range(3):
        for scale in (0.5, 2.0):
            other = mean_state(model, task, layers=layer, scales=scale, **SHOTS)
            torch.testing.assert_close(other.vector, mean[layer] * scale, atol=1e-4, rtol=1e-4)
            logprobs = []
            for prompt in validation_prompts(model, split_pairs(task)):
                added = torch.zeros(1, len(prompt.tokens) + len(prompt.answers[0]), model.d_model)
                added[:, len(prompt.tokens) - 1] = other.vector
                hook = (f"blocks.{layer}.hook_resid_post", partial(lambda by, x, hook: x + by, added))
                logprobs.append(logprob(model, prompt, hooks=[hook]))
            means[layer, scale] = float(torch.stack(logprobs).mean())
    best = max(means, key=means.get)
    assert (vector.layer, vector.provenance.options["picked_scale"]) == best
    assert vector.provenance.options["validation_logprob"] == pytest.approx(means[best], abs=1e-3)


def test_head_writes_sum_to_the_projection(any_model):
    model = any_model
    z, post_attn_gain = torch.randn(model.n_layers, model.n_heads, model.d_head), torch.rand(model.n_layers, model.d_model)
    summed = torch.stack([model.head_write(layer, z[layer]) * post_attn_gain[layer] for layer in range(model.n_layers)])
    torch.testing.assert_close(head_writes(model, z, post_attn_gain).sum(1), summed, atol=1e-5, rtol=1e-4)


def test_head_weights_make_their_vector(tiny_model):
    model, task = tiny_model("llama"), toy_task()
    ranking = rank_heads(model, task, n_shots=2, n_clean=3, n_trials=2)
    vector = train_head_weights(model, task, means=ranking, **FEW)
    summed = (vector.weights[..., None] * head_writes(model, ranking.z, ranking.post_attn_gain)).sum((0, 1))
    torch.testing.assert_close(vector.vector, summed, atol=1e-4, rtol=1e-4)
    assert vector.weights.count_nonzero() > 0
    assert type(random_like(vector)).__name__ == "FunctionVector"


@pytest.mark.parametrize("kind", LEARNED)
def test_learning_makes_training_answers_likelier(any_model, kind):
    model, task = any_model, toy_task()
    split = split_pairs(task, seed=0)
    trained = MAKERS[kind](model, task, split=type(split)(split.train, split.train[:8], split.test))
    tested_on_training = type(split)(split.train, split.validation, split.train[:8])
    evaluation = evaluate(model, task, {kind: trained}, split=tested_on_training, n_shots=2)
    assert evaluation[kind].logprob_per_answer.mean > evaluation["none"].logprob_per_answer.mean


@pytest.mark.parametrize("kind", LEARNED)
def test_learning_leaves_the_model_as_it_was(tiny_model, kind):
    model, tokens = tiny_model("llama"), torch.tensor([[1, 2, 3]])
    before, weights = model.forward(tokens), [p.clone() for p in model.tl.parameters()]
    MAKERS[kind](model, toy_task())
    assert torch.equal(before, model.forward(tokens))
    assert all(torch.equal(a, b) for a, b in zip(weights, model.tl.parameters(), strict=True))
    assert not any(p.requires_grad or p.grad is not None for p in model.tl.parameters())


def test_soft_prompt_is_embeddings_in_front(tiny_model, huggingface_model):
    """Against the Hugging Face model, given embeddings instead of tokens."""
    model, hf = tiny_model("llama"), huggingface_model("llama")
    soft = train_soft_prompt(model, toy_task(), n_tokens=3, **FEW)
    tokens = [0, 5, 6, 7]
    embedded = hf.get_input_embeddings()(torch.tensor([tokens]))
    expected = hf(inputs_embeds=torch.cat([embedded[:, :1], soft.states[None], embedded[:, 1:]], 1)).logits
    with soft.applied(model):
        logits = model.forward(torch.tensor([soft.lengthened(tokens)]))
    torch.testing.assert_close(logits[0, -3:], expected[0, -3:], atol=1e-4, rtol=1e-4)
    scores = soft.score(model, encode_prompts(model, [zero_shot(toy_task().pairs[1])]))
    prompt = encode_prompts(model, [zero_shot(toy_task().pairs[1])])[0]
    longer = type(prompt)(soft.lengthened(prompt.tokens), prompt.answers)
    with soft.applied(model):
        assert float(scores.logprob) == pytest.approx(float(logprob(model, longer)), abs=1e-3)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # PEFT asks transformers for it
def test_adapter_is_what_peft_makes_of_it(tiny_model, huggingface_model):
    """The same matrices in PEFT's layers around the Hugging Face model."""
    model, tokens = tiny_model("llama", fresh=True), torch.tensor([[0, 5, 6, 7]])
    adapter = train_adapter(model, toy_task(), rank=2, alpha=2, **FEW)
    config = peft.LoraConfig(r=2, lora_alpha=2, target_modules=["q_proj", "v_proj"])
    theirs = peft.get_peft_model(huggingface_model("llama"), config)
    with torch.no_grad():
        for layer, block in enumerate(theirs.base_model.model.model.layers):
            for part in ("q", "v"):
                module = getattr(block.self_attn, f"{part}_proj")
                module.lora_A["default"].weight.copy_(getattr(adapter, f"{part}_down")[layer])
                module.lora_B["default"].weight.copy_(getattr(adapter, f"{part}_up")[layer])
        expected = theirs(tokens).logits
    before = model.forward(tokens)
    with adapter.applied(model):
        logits = model.forward(tokens)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(logits, before, atol=1e-3)
    assert torch.equal(before, model.forward(tokens))


def test_adapter_trains_what_it_applies(any_model):
    """The validation score that training saw is the one that the changed weights give."""
    model, task = any_model, toy_task()
    adapter = train_adapter(model, task, **FEW)
    prompts = validation_prompts(model, split_pairs(task))
    trained_logprob = adapter.score(model, prompts).logprob.mean()
    assert float(trained_logprob) == pytest.approx(adapter.provenance.options["validation_logprob"], abs=1e-3)


def test_adapter_is_taken_back_when_a_block_raises(tiny_model):
    model = tiny_model("llama")
    adapter = train_adapter(model, toy_task(), **FEW)
    maps = {place: wrapper.original_component for place, wrapper in projections(model).items()}
    with pytest.raises(ZeroDivisionError), adapter.applied(model):
        raise ZeroDivisionError
    assert maps == {place: wrapper.original_component for place, wrapper in projections(model).items()}


@pytest.mark.parametrize("kind", MAKERS)
def test_round_trip_seed_and_another_model(tiny_model, tmp_path, kind):
    model, task = tiny_model("llama"), toy_task()
    one, two, other = (MAKERS[kind](model, task, seed=s) for s in (3, 3, 4))
    again = load_artefact(one.save(tmp_path / "kind.safetensors"))
    assert type(again) is type(one)
    assert again.provenance == one.provenance
    prompts = encode_prompts(model, [zero_shot(pair) for pair in task.pairs[:3]])

    def scored(x):
        return x.score(model, prompts).logprob if hasattr(x, "score") else score_answers(model, prompts, [x.edits()]).logprob

    assert torch.equal(scored(one), scored(again))
    assert torch.equal(scored(one), scored(two))
    assert not torch.equal(scored(one), scored(other))
    assert one.provenance.method == kind
    with pytest.raises(LensFVError, match="made on model tiny-llama, this is tiny-gpt2"):
        evaluate(tiny_model("gpt2"), task, {"it": one}, n_shots=2)


def test_bad_requests(tiny_model):
    model, task = tiny_model("llama"), toy_task()
    for make in (train_head_weights, train_soft_prompt, train_adapter):
        with pytest.raises(LensFVError, match="500 pairs"):
            make(model, task, n_pairs=500)
    with pytest.raises(LensFVError, match="layers 0 to 2"):
        mean_state(model, task, layers=9, **SHOTS)
    with pytest.raises(LensFVError, match="at least one"):
        mean_state(model, task, scales=(), **SHOTS)
    with pytest.raises(LensFVError, match="rank=0"):
        train_adapter(model, task, rank=0, **FEW)
