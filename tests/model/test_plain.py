"""A model's weights without TransformerLens around them."""

import re

import pytest
import torch

from lens_fv import LensFVError, load_model
from lens_fv.model.plain import own_weights, plain_model, write_weights


def test_names_and_shapes_that_the_model_does_not_have(tiny_model):
    model = tiny_model(fresh=True)
    before = {name: value.clone() for name, value in own_weights(model).items()}
    norm = torch.zeros(32)
    with pytest.raises(LensFVError, match=re.escape("write model.norm.bias (32,) into tiny-llama: it has no such weight")):
        write_weights(model, {"model.norm.weight": norm, "model.norm.bias": norm})
    with pytest.raises(LensFVError, match=re.escape("(3,) into tiny-llama: it has (32,) there")):
        write_weights(model, {"model.norm.weight": torch.zeros(3)})
    assert all(torch.equal(before[name], value) for name, value in own_weights(model).items())


def test_processed_weights_are_refused(model_folder):
    model = load_model(model_folder, weight_processing="compat")
    with pytest.raises(LensFVError, match=r"TransformerLens has processed them \(bridge, compat\)"):
        plain_model(model)
