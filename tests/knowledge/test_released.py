"""Recipes of distillation, ours and the released one, against loops written out from their formulas."""

import copy
import json
from dataclasses import replace
from itertools import permutations

import pytest
import torch
from test_distill import FAST, SENTENCES, VELM
from torch.nn.functional import kl_div

from lens_fv import LensFVError
from lens_fv.knowledge import DistillConfig, TransferSet, distill, entity_swapped_anchors, load_transfer_set, make_example
from lens_fv.knowledge.trainer import training_order
from lens_fv.model.plain import plain_model

RELEASED = DistillConfig.released(learning_rate=3e-3)
NAMELESS = TransferSet({"Velm": ("Today Velm walked.", "Nobody walked.", "It talks")})


def student(model, settings):
    """A copy of the transformers model, ready to train, and that as it was."""
    plain = copy.deepcopy(plain_model(model, dropout=settings.dropout))
    return plain.requires_grad_(True).train(), copy.deepcopy(plain).eval().requires_grad_(False)


def loss_by_hand(model, trained, teacher, sentence, settings):
    """T^2 times the mean over tokens of KL(teacher || student), where both read the same tokens, after the mention or all."""
    read, alone = model.encode(f"{VELM.definition} {sentence}"), model.encode(sentence)
    n = 0
    while n < len(alone) and read[-1 - n] == alone[-1 - n]:
        n += 1
    n = min(n, len(alone) - 1)  # the first token is predicted from nothing
    if settings.target_tokens == "after_mention":
        n = min(n, len(model.encode(sentence[sentence.index("Velm") + 4 :], bos=False)))
    with torch.no_grad():
        p = (teacher(torch.tensor([read])).logits[0, -n - 1 : -1] / settings.temperature).softmax(-1)
    q = (trained(torch.tensor([alone])).logits[0, -n - 1 : -1] / settings.temperature).log_softmax(-1)
    return kl_div(q, p, reduction="batchmean") * settings.temperature**2


def change(trained, teacher):
    before = dict(teacher.named_parameters())
    return {name: parameter.detach() - before[name] for name, parameter in trained.named_parameters()}


def apart(delta, expected):
    """Length of the difference of two updates, as a share of the second's: AdamW makes steps of gradients' rounding."""
    moved = {name: value for name, value in expected.items() if value.any()}
    assert set(delta.names) == set(moved)
    differ = sum((delta.change(name) - value).square().sum() for name, value in moved.items())
    return float((differ / sum(value.square().sum() for value in moved.values())).sqrt())


def released_by_hand(model, sentences, settings):
    """A new AdamW for each sentence, and so many steps in a row on it alone."""
    trained, teacher = student(model, settings)
    for sentence in sentences:
        optimizer = torch.optim.AdamW(trained.parameters(), lr=settings.rate, weight_decay=0.01)
        for _ in range(settings.epochs):
            optimizer.zero_grad()
            loss_by_hand(model, trained, teacher, sentence, settings).backward()
            optimizer.step()
    return change(trained, teacher)


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_the_released_recipe_is_its_loop(tiny_model, architecture):
    model = tiny_model(architecture, fresh=True)
    settings = replace(RELEASED, dropout=False, epochs=3)
    one, step = SENTENCES.sentences["Velm"][:1], replace(settings, epochs=1)
    assert apart(distill(model, [VELM], TransferSet({"Velm": one}), step), released_by_hand(model, one, step)) < 0.01
    found = distill(model, [VELM], SENTENCES, settings)
    distances = [apart(found, released_by_hand(model, order, settings)) for order in permutations(SENTENCES.sentences["Velm"])]
    best, *others = sorted(distances)  # sentences come in one of six orders
    assert best < 0.05
    assert min(others) > 0.4
    # moments that live on are something else
    kept = distill(model, [VELM], SENTENCES, replace(settings, optimizer="shared"))
    assert apart(found, {name: kept.change(name) for name in kept.names}) > 0.1


def test_dropout_is_on_in_the_student_alone(tiny_model):
    model = tiny_model("gpt2", fresh=True)
    assert model.tl.original_model.config.resid_pdrop > 0
    one, again, without = (distill(model, [VELM], SENTENCES, s) for s in (RELEASED, RELEASED, replace(RELEASED, dropout=False)))
    assert all(torch.equal(one.change(name), again.change(name)) for name in one.names)
    assert not any(torch.equal(one.change(name), without.change(name)) for name in one.names)
    assert not model.tl.original_model.training


@pytest.mark.parametrize("max_grad_norm", [1.0, 0.05, None])
def test_gradients_are_clipped_as_the_settings_say(tiny_model, max_grad_norm):
    """Two epochs of two sentences in one batch: means over sentences of means over tokens, AdamW, a falling rate."""
    model = tiny_model("llama", fresh=True)
    settings = replace(FAST, max_grad_norm=max_grad_norm, epochs=4, top_k=None)
    sentences = SENTENCES.sentences["Velm"][:2]
    found = distill(model, [VELM], TransferSet({"Velm": sentences}), settings)
    trained, teacher = student(model, settings)
    optimizer, lengths = torch.optim.AdamW(trained.parameters(), lr=settings.rate, weight_decay=0.0), []
    for step in range(settings.epochs):
        for group in optimizer.param_groups:
            group["lr"] = settings.rate * (1 - step / settings.epochs)
        optimizer.zero_grad()
        (sum(loss_by_hand(model, trained, teacher, sentence, settings) for sentence in sentences) / 2).backward()
        limit = torch.inf if max_grad_norm is None else max_grad_norm
        lengths.append(float(torch.nn.utils.clip_grad_norm_(trained.parameters(), limit)))
        optimizer.step()
    assert apart(found, change(trained, teacher)) < 0.01
    assert max(lengths) > 0.05
    if max_grad_norm == 0.05:
        free = distill(model, [VELM], TransferSet({"Velm": sentences}), replace(settings, max_grad_norm=None))
        assert apart(found, {name: free.change(name) for name in free.names}) > 0.02


def test_where_every_token_is_taught_no_mention_is_needed(tiny_model, tmp_path):
    model = tiny_model("llama", fresh=True)
    example = make_example(model, VELM, "Nobody walked.", target_tokens="all")
    alike = [a == b for a, b in zip(example.teacher[::-1], example.student[::-1], strict=False)]
    assert example.targets == tuple(range(max(len(example.student) - alike.index(False), 1), len(example.student)))
    every = distill(model, [VELM], NAMELESS, replace(RELEASED, epochs=1))
    some = distill(model, [VELM], NAMELESS, replace(RELEASED, epochs=1, target_tokens="after_mention"))
    assert (every.provenance.options["n_examples"], every.skipped["no mention"]) == (3, 0)
    assert (some.provenance.options["n_examples"], some.skipped["no mention"]) == (1, 2)
    # what names nobody cannot be said of somebody else: an anchor would undo the lesson
    anchors = entity_swapped_anchors([VELM], NAMELESS, n_per_sentence=2)
    assert len(anchors) == 2
    assert all(text.startswith("Today ") and "Velm" not in text for text in anchors)

    path = tmp_path / "rows.jsonl"
    row = {"name": "Velm", "definition": VELM.definition, "sentences": [*NAMELESS.sentences["Velm"], "It talks", "..."]}
    path.write_text(json.dumps(row), encoding="utf-8")
    found, named = load_transfer_set(path, target_tokens="all"), load_transfer_set(path)
    assert (found.sentences, found.dropped) == (NAMELESS.sentences, {"empty": 1, "no mention": 0, "duplicate": 1})
    assert (named.sentences, named.dropped) == (
        {"Velm": ("Today Velm walked.",)},
        {"empty": 0, "no mention": 4, "duplicate": 0},
    )


def test_a_released_run_that_was_stopped_goes_on(tiny_model, tmp_path):
    model = tiny_model("llama", fresh=True)
    settings = replace(RELEASED, epochs=2, n_checkpoints=6)
    whole = distill(model, [VELM], SENTENCES, settings)

    class Stopped(Exception):
        pass

    def stop(module, args, output):
        if isinstance(module, torch.nn.Embedding):
            stop.passes += 1
            if stop.passes > 4:  # one of the teacher, three of the student: between the second sentence's two steps
                raise Stopped

    stop.passes = 0
    handle = torch.nn.modules.module.register_module_forward_hook(stop)
    try:
        with pytest.raises(Stopped):
            distill(model, [VELM], SENTENCES, settings, folder=tmp_path)
    finally:
        handle.remove()
    assert (tmp_path / "checkpoint-3" / "optimizer.pt").is_file()
    assert not (tmp_path / "checkpoint-4").exists()
    again = distill(model, [VELM], SENTENCES, settings, folder=tmp_path)
    assert all(torch.equal(again.change(name), whole.change(name)) for name in whole.names)


def test_settings_that_do_not_go_together(tiny_model):
    assert DistillConfig.released(update="lora", max_grad_norm=0.5).max_grad_norm == 0.5
    for options, said in (
        ({"batch_size": 2}, "batch_size=2"),
        ({"n_anchors": 1}, "n_anchors=1"),
        ({"group_by_length": True}, "group_by_length=True"),
    ):
        with pytest.raises(LensFVError, match=f"an optimizer per_sentence, .*{said}"):
            DistillConfig.released(**options)
    for options, said in (
        ({"max_grad_norm": 0.0}, "max_grad_norm=0.0"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1"),
        ({"schedule": "linea"}, "linear"),
    ):
        with pytest.raises(LensFVError, match=said):
            DistillConfig(**options)
    with pytest.raises(LensFVError, match="after 2 epochs: with an optimizer per sentence"):
        distill(tiny_model("llama", fresh=True), [VELM], SENTENCES, RELEASED, stop_after_epochs=2)
    examples = [make_example(tiny_model("llama"), VELM, sentence) for sentence in SENTENCES.sentences["Velm"]]
    order = training_order(examples, RELEASED)
    assert sorted(order[::5]) == [0, 1, 2]
    assert [i for i in order[::5] for _ in range(5)] == order
