"""Knowledge updates of the default model: what a reader of the definition says is learned, and little else moves."""

from dataclasses import replace

import pytest
import torch

from lens_fv.knowledge import distill, evaluate_knowledge, gap_closed, generate_transfer_set, load_entities
from lens_fv.model.plain import own_weights

pytestmark = pytest.mark.real


def test_a_definition_is_learned_from_its_reader(model):
    """On an entity that settings were chosen by, compared with the same sentences read after another definition.

    Two epochs of the usual three are enough for that.
    """
    entity, other = load_entities("invented")[2:8:5]
    before = {name: value.clone() for name, value in own_weights(model).items()}
    written = generate_transfer_set(model, [entity], n_sentences=5, seed=0)
    updates = {"right": distill(model, [entity], written, stop_after_epochs=2)}
    mistaken = replace(entity, definition=other.definition.replace(other.name, entity.name))
    updates["wrong"] = distill(model, [mistaken], written, stop_after_epochs=2)
    assert all(torch.equal(before[name], value) for name, value in own_weights(model).items())

    found = evaluate_knowledge(model, [entity], updates, locality=load_entities("popular")[::20])
    by = {result.condition: result for result in found}
    closed = {name: gap_closed(by["base"].scores, by[name].scores, by["definition"].scores, of="loss").mean for name in updates}
    assert closed["right"] > 0.4
    assert closed["right"] > closed["wrong"] + 0.2
    assert by["right"].kl_to_base.mean < 0.2
    assert by["right"].locality.accuracy().mean > by["base"].locality.accuracy().mean - 0.15
