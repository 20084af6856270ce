"""Tuning: it learns, it selects on validation, it leaves the model alone."""

import pytest
import torch
from helpers import toy_task

from lens_fv.errors import LensFVError
from lens_fv.heads import rank_heads
from lens_fv.patching import score_answers
from lens_fv.tasks import EncodedPrompt, encode_prompts, split_pairs, zero_shot
from lens_fv.vectors import extract, tune, tune_many
from lens_fv.vectors.batches import open_batches

FEW = {"n_pairs": 8, "steps": 20, "layers": 1}


def test_answer_loss_is_the_mean_negative_log_probability(tiny_model):
    model = tiny_model("llama")
    prompts, answers = [[1, 2, 3], [4, 5]], [[6, 7], [8]]
    encoded = [EncodedPrompt(tuple(p), (tuple(a),)) for p, a in zip(prompts, answers, strict=True)]
    (batch,) = open_batches(model, [(0, prompt) for prompt in encoded])
    loss = batch.losses([1], torch.zeros(1, 1, model.d_model)).mean(0)
    losses = []
    for prompt, answer in zip(prompts, answers, strict=True):
        logprobs = model.forward(torch.tensor([prompt + answer]))[0].log_softmax(-1)
        losses.append(-sum(logprobs[len(prompt) - 1 + i, t] for i, t in enumerate(answer)) / len(answer))
    torch.testing.assert_close(loss, torch.stack([sum(losses) / 2]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
def test_tuning_makes_training_answers_likelier(tiny_model, architecture):
    model, task = tiny_model(architecture), toy_task()
    split = split_pairs(task, seed=0)
    vector = tune(model, task, split=split, init="random", **FEW)
    prompts = encode_prompts(model, [zero_shot(pair) for pair in (*split.train[:8], *split.validation)])
    scores = score_answers(model, prompts, [[], vector.edits()]).logprob
    assert scores[:8, 1].mean() > scores[:8, 0].mean()
    assert vector.provenance.options["validation_logprob"] >= scores[8:, 0].mean() - 5


def test_model_is_left_as_it_was(tiny_model):
    model, tokens = tiny_model("llama"), torch.tensor([[1, 2, 3]])
    before, states = model.forward(tokens), [p.clone() for p in model.tl.parameters()]
    tune(model, toy_task(), **FEW)
    assert torch.equal(before, model.forward(tokens))
    assert all(torch.equal(a, b) for a, b in zip(states, model.tl.parameters(), strict=True))
    assert not any(p.requires_grad or p.grad is not None for p in model.tl.parameters())


def test_same_seed_same_vector(tiny_model):
    one, two, other = (tune(tiny_model("llama"), toy_task(), init="random", seed=s, **FEW) for s in (3, 3, 4))
    assert torch.equal(one.vector, two.vector)
    assert not torch.equal(one.vector, other.vector)


def test_candidates_side_by_side_train_as_if_alone(tiny_model):
    """The winner of several candidates is what it would have been by itself."""
    model, task = tiny_model("llama"), toy_task()
    options = {"n_pairs": 8, "steps": 20, "init": "random"}
    both = tune(model, task, layers=[0, 1], learning_rate=[0.05, 0.1], **options)
    alone = tune(model, task, layers=both.layer, learning_rate=both.provenance.options["learning_rate"], **options)
    torch.testing.assert_close(both.vector, alone.vector, atol=1e-4, rtol=1e-3)


def test_relations_side_by_side_train_as_if_alone(tiny_model):
    """Among them one that stops early, one with longer answers, one with a start of its own."""
    model = tiny_model("llama")
    tasks = [toy_task(40 + 4 * i, name=f"toy{i}") for i in range(3)]
    first = tune(model, tasks[0], **FEW)
    options = {"n_pairs": 8, "steps": 20, "learning_rate": [0.05, 0.2], "layers": [0, 1]}
    starts = {"toy0": first, "toy1": "random", "toy2": "zero"}
    together = tune_many(model, tasks, init=starts, **options)
    for task, vector in zip(tasks, together, strict=True):
        alone = tune(model, task, init=starts[task.name], **options)
        assert (vector.layer, vector.provenance.options["best_step"]) == (alone.layer, alone.provenance.options["best_step"])
        assert vector.provenance.prompts_hash == alone.provenance.prompts_hash
        torch.testing.assert_close(vector.vector, alone.vector, atol=1e-4, rtol=1e-3)
    with pytest.raises(LensFVError, match="a name of its own"):
        tune_many(model, [tasks[0], tasks[0]])


def test_l2_pulls_towards_its_anchor(tiny_model):
    model, task = tiny_model("llama"), toy_task()
    norms = [float(tune(model, task, l2=l2, **FEW).vector.norm()) for l2 in (0.0, 100.0)]
    assert norms[1] < norms[0]
    start = extract(model, task, rank_heads(model, task, n_shots=2, n_clean=3, n_trials=2), n_heads=3, layer=1)
    near, far = (tune(model, task, init=start, l2=l2, l2_to="start", **FEW).vector for l2 in (100.0, 0.0))
    assert (near - start.vector).norm() <= (far - start.vector).norm()


def test_the_test_split_is_never_seen(tiny_model):
    """Another test split, the same vector."""
    model, task = tiny_model("llama"), toy_task()
    split = split_pairs(task, seed=0)
    other = type(split)(train=split.train, validation=split.validation, test=toy_task(60).pairs[45:])
    assert torch.equal(tune(model, task, split=split, **FEW).vector, tune(model, task, split=other, **FEW).vector)


def test_bad_requests(tiny_model):
    model, task = tiny_model("llama"), toy_task()
    with pytest.raises(LensFVError, match="pairs"):
        tune(model, task, n_pairs=1000)
    with pytest.raises(LensFVError, match="layers 0 to 2"):
        tune(model, task, n_pairs=5, layers=7)
    elsewhere = tune(tiny_model("gpt2"), task, **FEW)
    with pytest.raises(LensFVError, match="made on model tiny-gpt2"):
        tune(model, task, init=elsewhere, **FEW)
