"""The same sentences said of others."""

from dataclasses import replace

import pytest
import torch

from lens_fv.knowledge import DistillConfig, Entity, TransferSet, distill, entity_swapped_anchors, kl_to_base, load_entities
from lens_fv.knowledge.anchors import NOBODY, WELL_KNOWN
from lens_fv.knowledge.examples import DistillationExample
from lens_fv.knowledge.trainer import training_order

VELM, ORLA = Entity("Velm Tar", "Velm talked to A.", ("Velm",)), Entity("Orla", "Orla is a Q that asks.")
SENTENCES = TransferSet({"Velm Tar": ("Velm Tar is what Velm is.", "So velm walked."), "Orla": ("Orla talked.",), "X": ("X.",)})


def test_every_mention_becomes_another_name():
    found = entity_swapped_anchors([VELM, ORLA], SENTENCES, subjects=["the mayor"])
    assert found == ["The mayor is what the mayor is.", "So the mayor walked.", "The mayor talked."]
    drawn = entity_swapped_anchors([VELM, ORLA], SENTENCES, seed=1)
    assert (
        drawn
        == entity_swapped_anchors([VELM, ORLA], SENTENCES, seed=1)
        != entity_swapped_anchors([VELM, ORLA], SENTENCES, seed=2)
    )


def test_each_time_the_others_are_others():
    others = ["the mayor", "Vienna"]
    twice = entity_swapped_anchors([VELM, ORLA], SENTENCES, subjects=others, n_per_sentence=2)
    assert twice[:3] == entity_swapped_anchors([VELM, ORLA], SENTENCES, subjects=others)
    assert all(a != b for a, b in zip(twice[:3], twice[3:], strict=True))
    assert entity_swapped_anchors([VELM, ORLA], SENTENCES, subjects=others, n_per_sentence=3)[6:] == twice[:3]


@pytest.mark.parametrize(("n_anchors", "given"), [(1, 4), (2, 4), (1, 1), (0, 4)])
def test_epochs_take_one_anchor_after_the_other(n_anchors, given):
    examples = [DistillationExample("Velm Tar", (1, 2), (1, 2), (1,))] * 3 + [
        DistillationExample("", (1, 3), (1, 3), (1,))
    ] * given
    settings = DistillConfig(epochs=4, n_anchors=n_anchors, seed=3)
    order = training_order(examples, settings)
    each, taken = 3 + min(given, 3 * n_anchors), []
    for epoch in range(4):
        there = sorted(order[epoch * each : (epoch + 1) * each])
        assert there[:3] == [0, 1, 2]
        assert len(set(there)) == each
        taken += there[3:]
    assert len(order) == 4 * each
    counts = [taken.count(3 + i) for i in range(given)]
    assert max(counts) - min(counts) <= 1
    assert order == training_order(examples, settings) != training_order(examples, replace(settings, seed=4))


def test_steps_are_of_one_length_where_lessons_allow_it():
    def example(n: int, i: int) -> DistillationExample:
        return DistillationExample(f"{i}", tuple(range(n)), tuple(range(n)), (1,))

    examples = [example(9 if i % 2 else 3, i) for i in range(16)]
    order = training_order(examples, DistillConfig(epochs=3, batch_size=4, group_by_length=True))
    steps = [[len(examples[i].student) for i in order[at : at + 4]] for at in range(0, 48, 4)]
    assert all(len(set(step)) == 1 for step in steps)
    assert steps[:4] != sorted(steps[:4])  # short ones do not always come first
    # a step that two epochs share takes what comes; each epoch still has every lesson once
    order = training_order(examples[:9], DistillConfig(epochs=3, batch_size=4, group_by_length=True))
    assert all(sorted(order[at : at + 9]) == list(range(9)) for at in (0, 9, 18))


@pytest.mark.parametrize("name", ["invented", "popular"])
def test_what_is_measured_is_no_anchor(name):
    for entity in load_entities(name):
        assert [other for other in (*NOBODY, *WELL_KNOWN) if entity.mention(other)] == []


@pytest.mark.parametrize("method", ["full", "lora"])
def test_anchors_keep_what_is_said_of_others(tiny_model, method):
    model = tiny_model("llama", fresh=True)
    settings = DistillConfig(
        update=method, learning_rate=3e-3 if method == "full" else 3e-2, epochs=20, n_definitions=0, batch_size=3
    )
    anchors = entity_swapped_anchors([VELM, ORLA], SENTENCES)
    loose = distill(model, [VELM, ORLA], SENTENCES, settings, anchors=())
    held = distill(model, [VELM, ORLA], SENTENCES, replace(settings, batch_size=6), anchors=anchors)
    assert held.provenance.options["anchors"] == held.provenance.options["n_examples"] == loose.provenance.options["n_examples"]
    assert sum(kl_to_base(model, held, anchors)) < 0.7 * sum(kl_to_base(model, loose, anchors))


def test_anchors_alone_teach_nothing(tiny_model):
    model = tiny_model("llama", fresh=True)
    before = model.forward(torch.tensor([[5, 6, 7]]))
    delta = distill(model, [replace(VELM, definition="")], SENTENCES, anchors=["The mayor walked."], allow_empty=True)
    assert len(delta) == 0
    with delta.applied(model):
        assert torch.equal(model.forward(torch.tensor([[5, 6, 7]])), before)
