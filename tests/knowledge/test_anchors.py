"""The same sentences said of others."""

from dataclasses import replace

import pytest
import torch

from lens_fv.knowledge import Entity, TeachSettings, TransferSet, distill, drift, load_entities, said_of_others
from lens_fv.knowledge.anchors import NOBODY, WELL_KNOWN

VELM, ORLA = Entity("Velm Tar", "Velm talked to A.", ("Velm",)), Entity("Orla", "Orla is a Q that asks.")
SENTENCES = TransferSet({"Velm Tar": ("Velm Tar is what Velm is.", "So velm walked."), "Orla": ("Orla talked.",), "X": ("X.",)})


def test_every_mention_becomes_another_name():
    found = said_of_others([VELM, ORLA], SENTENCES, others=["the mayor"])
    assert found == ["The mayor is what the mayor is.", "So the mayor walked.", "The mayor talked."]
    drawn = said_of_others([VELM, ORLA], SENTENCES, seed=1)
    assert drawn == said_of_others([VELM, ORLA], SENTENCES, seed=1) != said_of_others([VELM, ORLA], SENTENCES, seed=2)


@pytest.mark.parametrize("name", ["invented", "popular"])
def test_what_is_measured_is_no_anchor(name):
    for entity in load_entities(name):
        assert [other for other in (*NOBODY, *WELL_KNOWN) if entity.mention(other)] == []


@pytest.mark.parametrize("method", ["full", "lora"])
def test_anchors_keep_what_is_said_of_others(tiny_model, method):
    model = tiny_model("llama", fresh=True)
    settings = TeachSettings(method=method, learning_rate=3e-3 if method == "full" else 3e-2, epochs=20, batch_size=3)
    anchors = said_of_others([VELM, ORLA], SENTENCES)
    loose = distill(model, [VELM, ORLA], SENTENCES, settings)
    held = distill(model, [VELM, ORLA], SENTENCES, replace(settings, batch_size=6), anchors=anchors)
    assert held.provenance.options["anchors"] == held.provenance.options["lessons"] == loose.provenance.options["lessons"]
    assert sum(drift(model, held, anchors)) < 0.7 * sum(drift(model, loose, anchors))


def test_anchors_alone_teach_nothing(tiny_model):
    model = tiny_model("llama", fresh=True)
    before = model.forward(torch.tensor([[5, 6, 7]]))
    delta = distill(model, [replace(VELM, definition="")], SENTENCES, anchors=["The mayor walked."])
    assert len(delta) == 0
    with delta.applied(model):
        assert torch.equal(model.forward(torch.tensor([[5, 6, 7]])), before)
