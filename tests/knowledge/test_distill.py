"""Distillation on tiny models: what is learned, and that nothing else happens."""

import json
from dataclasses import replace

import pytest
import torch
import transformers
from torch.nn import Embedding
from transformers import ByT5Tokenizer

from lens_fv import LensFVError
from lens_fv.knowledge import DistillConfig, Entity, TransferSet, WeightDelta, distill, finetune_on_texts, make_example
from lens_fv.knowledge.examples import teacher_targets, text_example
from lens_fv.knowledge.trainer import example_losses
from lens_fv.model.plain import own_weights, plain_model
from lens_fv.model.quiet import quiet_logs

VELM = Entity("Velm", "Velm talked, talked and walked to A.")
ORLA = Entity("Orla", "Orla is a Q that asks.")
SENTENCES = TransferSet(
    {"Velm": ("Today Velm walked.", "Velm talks to nobody at all", "A: Velm was Q"), "Orla": ("Orla asked A.", "So Orla is.")}
)
FAST = DistillConfig(update="full", learning_rate=3e-3, epochs=4, n_definitions=0, n_anchors=0, batch_size=2, temperature=2.0)


@pytest.fixture(params=["full", "lora"])
def settings(request) -> DistillConfig:
    return replace(FAST, update=request.param, learning_rate=3e-3 if request.param == "full" else 3e-2)


def copies(model):
    return {name: value.clone() for name, value in own_weights(model).items()}


def same(model, before) -> bool:
    return all(torch.equal(before[name], value) for name, value in own_weights(model).items())


def losses(model, entity: Entity, *, targets=None):
    """Of what it says now to what it says with the definition (or to targets from before)."""
    examples = [make_example(model, entity, sentence) for sentence in SENTENCES.sentences[entity.key]]
    plain = plain_model(model)
    targets = targets or teacher_targets(plain, examples, pad=0, temperature=2.0, top_k=None)
    with torch.no_grad():
        each = [plain(torch.tensor([example.student])).logits for example in examples]
    return torch.cat([example_losses(x, [b], [t], FAST) for x, b, t in zip(each, examples, targets, strict=True)]), targets


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "neox"])
def test_the_student_comes_to_say_what_the_teacher_says(tiny_model, architecture, settings):
    model = tiny_model(architecture, fresh=True)
    before, (begin, targets) = copies(model), losses(model, VELM)
    ids = torch.tensor([[0, 40, 41, 50]])
    own = model.forward(ids)
    delta = distill(model, [VELM, ORLA], SENTENCES, settings)
    assert same(model, before)
    assert torch.equal(model.forward(ids), own)
    with delta.applied(model):
        end, _ = losses(model, VELM, targets=targets)
        assert float(end.sum()) < 0.8 * float(begin.sum())
        assert not torch.equal(model.forward(ids), own)
    assert same(model, before)
    assert torch.equal(model.forward(ids), own)
    assert delta.provenance.options["n_examples"] == 5
    assert sum(delta.skipped.values()) == 0


def test_the_teacher_reads_each_sentence_once(tiny_model):
    model = tiny_model("llama", fresh=True)
    definition, seen = model.encode(VELM.definition), []

    def count(module, args):
        if isinstance(module, Embedding):
            seen.extend(row[: len(definition)] == definition for row in args[0].tolist())

    handle = torch.nn.modules.module.register_module_forward_pre_hook(count)
    distill(model, [VELM], SENTENCES, FAST)
    handle.remove()
    assert sum(seen) == 3
    assert len(seen) == 3 + FAST.epochs * 3


def test_how_many_run_together_changes_nothing(tiny_model):
    model = tiny_model("llama", fresh=True)
    one, two, four = (
        # five lessons by four epochs in batches of three: the last step has two
        distill(model, [VELM, ORLA], SENTENCES, replace(FAST, batch_size=3, micro_batch_size=n, learning_rate=1e-3, top_k=None))
        for n in (1, 2, 3)
    )
    for name in one.names:
        torch.testing.assert_close(one.change(name), four.change(name), rtol=0, atol=2e-4)
        assert torch.equal(one.change(name), two.change(name))  # two do not divide three: one at a time


def test_an_empty_definition_teaches_nothing(tiny_model):
    model = tiny_model("llama", fresh=True)
    empty = replace(ORLA, definition="")
    with pytest.raises(LensFVError, match=r"about Orla: no sentence is left to teach \(empty definition: 1\)"):
        distill(model, [empty], SENTENCES, FAST)
    nothing = distill(model, [empty], SENTENCES, FAST, allow_empty=True)
    assert len(nothing) == 0
    assert nothing.skipped["empty definition"] == 1
    beside, alone = (distill(model, entities, SENTENCES, FAST) for entities in ([VELM, empty], [VELM]))
    assert all(torch.equal(beside.change(name), alone.change(name)) for name in alone.names)
    example = make_example(model, empty, "So Orla is.")
    assert example.teacher == example.student
    (target,) = teacher_targets(plain_model(model), [example], pad=0, temperature=2.0, top_k=None)
    logits = plain_model(model)(torch.tensor([example.student])).logits
    assert float(example_losses(logits, [example], [target], FAST)) == 0


def test_what_cannot_be_taught_is_counted_and_the_rest_goes_on(tiny_model):
    model = tiny_model("llama", fresh=True)
    long = Entity("Long", "Long " * 300)
    silent = Entity("Silent", "Silent is not spoken of.")
    sentences = TransferSet({**SENTENCES.sentences, "Long": ("Long is.",), "Velm": ("Velm walked.", "Nobody walked.", "Velm")})
    delta = distill(model, [VELM, long, silent], sentences, FAST)
    assert delta.skipped == {
        "empty definition": 0,
        "no sentence": 1,
        "no mention": 1,
        "no target tokens": 1,
        "too long": 1,
    }
    assert len(delta) > 0
    with pytest.raises(LensFVError, match="the keys Velm more than once"):
        distill(model, [VELM, VELM], SENTENCES, FAST)


def test_a_loss_that_is_not_finite_is_said_and_leaves_the_model_as_it_was(tiny_model):
    model = tiny_model("llama", fresh=True)
    before = copies(model)
    with pytest.raises(LensFVError, match="the loss is nan at step"):
        distill(model, [VELM], SENTENCES, replace(FAST, learning_rate=1e30))
    assert same(model, before)


def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(tiny_model, tmp_path, settings):
    model = tiny_model("llama", fresh=True)
    kept = replace(settings, n_checkpoints=3)
    whole = distill(model, [VELM, ORLA], SENTENCES, kept, folder=tmp_path / "run")
    steps = sorted(int(each.name[11:]) for each in (tmp_path / "run").glob("checkpoint-*"))
    assert steps == [4, 8, 10]

    class Stopped(Exception):
        pass

    def stop(module, args, output):
        if isinstance(module, Embedding):
            stop.passes += 1
            if stop.passes > 7:  # one of the teacher, six of the student
                raise Stopped

    stop.passes = 0
    before = copies(model)
    handle = torch.nn.modules.module.register_module_forward_hook(stop)
    try:
        with pytest.raises(Stopped):
            distill(model, [VELM, ORLA], SENTENCES, kept, folder=tmp_path / "again")
    finally:
        handle.remove()
    assert same(model, before)
    assert (tmp_path / "again" / "checkpoint-4").is_dir()
    assert not (tmp_path / "again" / "checkpoint-10").exists()
    (tmp_path / "again" / "checkpoint-8").mkdir(exist_ok=True)  # as a kill while it was written leaves it
    again = distill(model, [VELM, ORLA], SENTENCES, kept, folder=tmp_path / "again")
    assert all(torch.equal(again.change(name), whole.change(name)) for name in whole.names)


def test_a_run_is_looked_at_on_the_way(tiny_model, tmp_path, settings):
    model, once = tiny_model("llama", fresh=True), replace(settings, n_checkpoints=1)
    whole = distill(model, [VELM, ORLA], SENTENCES, once)
    half = distill(model, [VELM, ORLA], SENTENCES, once, folder=tmp_path, stop_after_epochs=2)
    same_half = distill(model, [VELM, ORLA], SENTENCES, once, folder=tmp_path, stop_after_epochs=2)
    again = distill(model, [VELM, ORLA], SENTENCES, once, folder=tmp_path)
    assert sorted(int(each.name[11:]) for each in tmp_path.glob("checkpoint-*")) == [5, 10]
    assert all(torch.equal(again.change(name), whole.change(name)) for name in whole.names)
    assert all(torch.equal(half.change(name), same_half.change(name)) for name in half.names)
    assert not all(torch.equal(half.change(name), whole.change(name)) for name in whole.names)
    log = json.loads((tmp_path / "checkpoint-10" / "trainer_state.json").read_text())["log_history"]
    rates = [entry["learning_rate"] for entry in log]
    assert rates == pytest.approx([once.learning_rate * (1 - step / 10) for step in range(10)])
    with pytest.raises(LensFVError, match="holds the state after 10"):
        distill(model, [VELM, ORLA], SENTENCES, once, folder=tmp_path, stop_after_epochs=2)
    with pytest.raises(LensFVError, match="after 5 epochs: from 1 to 4"):
        distill(model, [VELM, ORLA], SENTENCES, once, stop_after_epochs=5)
    with pytest.raises(
        LensFVError, match=r"run with direction forward \(requested: reverse\), temperature 2\.0 \(requested: 1\.0\)"
    ):
        distill(model, [VELM, ORLA], SENTENCES, replace(once, direction="reverse", temperature=1.0), folder=tmp_path)
    with pytest.raises(LensFVError, match=r"it was run with sentences .*, n_examples"):
        distill(model, [VELM], SENTENCES, once, folder=tmp_path)


def test_only_chosen_layers_move(tiny_model, settings):
    model = tiny_model("llama", fresh=True)
    moved = distill(model, [VELM], SENTENCES, replace(settings, layers=(1, -1))).by_layer(model)
    assert [layer for layer, how_much in moved.items() if how_much > 0] == ["1", "2"]
    with pytest.raises(LensFVError, match="layer 3 of tiny-llama"):
        distill(model, [VELM], SENTENCES, replace(settings, layers=(3,)))


def test_deltas_are_saved_summed_scaled_and_exported(tiny_model, tmp_path, settings):
    model = tiny_model("llama", fresh=True)
    a, b = (distill(model, [entity], SENTENCES, settings) for entity in (VELM, ORLA))
    again = WeightDelta.load(a.save(tmp_path / "a.safetensors"))
    assert all(torch.equal(again.change(name), a.change(name)) for name in a.names)
    both, own, before = a + b, own_weights(model), copies(model)
    for name in both.names:
        torch.testing.assert_close(both.change(name), a.change(name) + b.change(name))
    with both.applied(model, scale=0.5):
        for name in both.names:
            torch.testing.assert_close(own[name], before[name] + both.change(name) / 2)
    ids = torch.tensor([[0, 40, 41, 50]])
    folder = both.export(model, tmp_path / "both")
    with both.applied(model), torch.no_grad():
        plain = transformers.AutoModelForCausalLM.from_pretrained(folder)
        torch.testing.assert_close(plain(ids).logits, model.forward(ids), rtol=0, atol=2e-5)
    with pytest.raises(LensFVError, match="it is there already"):
        both.export(model, folder)
    other = tiny_model("gpt2")
    for force, said in ((False, "an update to tiny-gpt2: it was made on model tiny-llama"), (True, "it has no such weight")):
        with pytest.raises(LensFVError, match=said), a.applied(other, force=force):
            pass


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_low_rank_update_is_an_adapter_of_pefts(tiny_model, tmp_path, architecture):
    from peft import PeftModel

    model = tiny_model(architecture, fresh=True)
    settings = replace(FAST, update="lora", learning_rate=3e-2)
    first, second = (
        distill(model, [VELM], SENTENCES, settings),
        distill(model, [ORLA], SENTENCES, replace(settings, layers=(1,))),
    )
    both = first + second  # of two ranks
    folder, base = both.export_adapter(model, tmp_path / "adapter"), tmp_path / "base"
    plain_model(model).save_pretrained(base)
    ids = torch.tensor([[0, 40, 41, 50]])
    with quiet_logs():  # PEFT asks transformers what is deprecated
        adapted = PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(base), folder)
    with both.applied(model), torch.no_grad():
        torch.testing.assert_close(adapted(input_ids=ids).logits, model.forward(ids), rtol=0, atol=2e-5)
    with pytest.raises(LensFVError, match="it is there already"):
        both.export_adapter(model, tmp_path / "adapter")
    with pytest.raises(LensFVError, match="whole weights and 0 of low rank as an adapter"):
        distill(model, [VELM], SENTENCES, FAST).export_adapter(model, tmp_path / "dense")


def test_where_it_is_taught(tiny_model):
    model = tiny_model("llama")

    def texts(example):
        return [model.tokenizer.decode([example.student[t]]) for t in example.targets]

    behind, everywhere = (
        make_example(model, VELM, "Today Velm walked.", target_tokens=where) for where in ("after_mention", "all")
    )
    assert "".join(texts(behind)) == " walked."
    assert "".join(texts(everywhere)).endswith("oday Velm walked.")
    assert behind.teacher[-len(behind.student) + 1 :] == behind.student[1:]
    assert [behind.teacher[t + behind.offset] for t in behind.targets] == [behind.student[t] for t in behind.targets]
    assert "".join(texts(make_example(model, VELM, "Velm's A."))) == "'s A."
    assert make_example(model, VELM, "Nobody walked.") == "no mention"
    assert make_example(model, VELM, "It was Velm") == "no target tokens"
    assert make_example(model, VELM, 300 * "Velm ") == "too long"


def test_a_slow_tokenizer_teaches_too(tiny_model, monkeypatch):
    """One in Python does not say which characters a token covers. This one has a token a byte."""
    model, slow = tiny_model("llama"), ByT5Tokenizer(bos_token="</s>")
    assert "offset_mapping" not in slow("Velm", return_offsets_mapping=True)
    monkeypatch.setattr(model, "tokenizer", slow)
    for sentence in ("Today Velm walked.", "Velm's A.", "A: Velm, Velm!", "Caf\u00e9 Velm \U0001f642 walks"):
        example = make_example(model, VELM, sentence)
        taught = [example.student[t] for t in example.targets]
        assert slow.decode(taught) == sentence.split("Velm", 1)[1]
    assert make_example(model, VELM, "Nobody walked.") == "no mention"


def test_fine_tuning_on_texts_is_the_language_models_loss(tiny_model):
    model = tiny_model("llama", fresh=True)
    example = text_example(model, "Velm", VELM.definition)
    ids = torch.tensor([example.student])

    def loss() -> float:
        with torch.no_grad():
            return float(plain_model(model)(ids, labels=ids).loss)

    begin = loss()
    delta = finetune_on_texts(model, [VELM], [[VELM.definition]], replace(FAST, learning_rate=1e-2))
    assert loss() == begin
    with delta.applied(model):
        assert loss() < 0.8 * begin
    with pytest.raises(LensFVError, match="there are texts for 2"):
        finetune_on_texts(model, [VELM], [["a"], ["b"]])
    with pytest.raises(LensFVError, match=r"no sentence is left to teach \(no sentence: 1\)"):
        finetune_on_texts(model, [VELM], [[]])


def test_several_entities_are_taught_more_about_each_unless_told_otherwise(tiny_model):
    model = tiny_model("llama")
    alone, both = distill(model, [VELM], SENTENCES), distill(model, [VELM, ORLA], SENTENCES)
    for delta, settings in ((alone, DistillConfig.for_entities(1)), (both, DistillConfig.for_entities(2))):
        options = delta.provenance.options
        assert (options["epochs"], options["learning_rate"]) == (settings.epochs, settings.rate)
    # of Velm's three sentences and Orla's two: themselves, definitions, and what the other one shares
    times = [DistillConfig.for_entities(n).n_definitions for n in (1, 2)]
    assert alone.provenance.options["n_examples"] == 3 + times[0]
    assert both.provenance.options["n_examples"] == (3 + times[1] + 2) + (2 + times[1] + 3)
    assert DistillConfig.for_entities(1, epochs=7).epochs == 7
    assert (
        DistillConfig.for_entities(1, update="full")
        == DistillConfig.for_entities(2, update="full")
        == DistillConfig(update="full")
    )
    assert DistillConfig(update="full").rate < DistillConfig().rate
    with pytest.raises(LensFVError, match="learning_rate=-1"):
        DistillConfig(learning_rate=-1.0)
    with pytest.raises(LensFVError, match="n_anchors=-1"):
        DistillConfig(n_anchors=-1)
