"""The instruction vector is the sum of its heads' mean outputs where the instruction is read."""

import pytest
import torch
from helpers import toy_task

from lens_fv.evaluation import load_artefact
from lens_fv.heads import rank_heads, rank_instruction_heads
from lens_fv.vectors import InstructionVector, extract


@pytest.fixture(scope="module")
def ranking(tiny_model):
    return rank_instruction_heads(tiny_model("llama"), toy_task(), n_clean=4, n_trials=3)


def test_it_is_what_its_heads_write(tiny_model, ranking, tmp_path):
    model = tiny_model("llama")
    vector = extract(model, toy_task(), ranking, n_heads=3, layer=1)
    assert vector.heads == ranking.heads(3)
    assert (vector.instructions, vector.counterpart) == (("Say it.",), "equiprobable")
    written = sum(ranking.z[a, b] @ model.tl.blocks[a].attn.W_O[b] for a, b in vector.heads)
    torch.testing.assert_close(vector.vector, written, atol=1e-5, rtol=1e-4)
    again = load_artefact(vector.save(tmp_path / "v.safetensors"))
    assert isinstance(again, InstructionVector)
    assert (again.instructions, again.heads) == (vector.instructions, vector.heads)
    assert torch.equal(again.vector, vector.vector)
    assert "Say it." in repr(again)


def test_its_layer_is_picked_without_the_instruction(tiny_model, ranking):
    model = tiny_model("llama")
    chosen = extract(model, toy_task(), ranking, n_heads=3)
    assert 0 <= chosen.layer < model.n_layers
    assert chosen.provenance.options["layer_picked_on"] == "validation log-probability"


def test_a_ranking_by_demonstrations_gives_no_instruction_vector(tiny_model):
    model = tiny_model("llama")
    ranking = rank_heads(model, toy_task(), n_shots=2, n_clean=2, n_trials=2)
    assert not isinstance(extract(model, toy_task(), ranking, layer=1), InstructionVector)
