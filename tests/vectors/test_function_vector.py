"""Vectors: made, applied, saved, refused."""

from dataclasses import replace

import pytest
import torch
from helpers import toy_task

from lens_fv.core.artefact import load_artefact
from lens_fv.errors import LensFVError
from lens_fv.heads import rank_heads
from lens_fv.patching import run_branches
from lens_fv.vectors import FunctionVector, decode, extract, other_heads, random_like

SMALL = {"n_shots": 2, "n_clean": 4, "n_trials": 3}


@pytest.fixture(scope="module")
def extracted(tiny_model):
    """A model, a task, its ranking and its vector at layer 1."""
    model, task = tiny_model("gemma3"), toy_task()
    ranking = rank_heads(model, task, **SMALL)
    return model, task, ranking, extract(model, task, ranking, n_heads=4, layer=1)


def test_vector_is_the_sum_of_what_the_heads_write(tiny_model):
    """Against attention's own output: all heads together are `hook_attn_out` less the bias, averaged over prompts."""
    for architecture in ("gpt2", "llama", "neox", "qwen3"):
        model, task = tiny_model(architecture), toy_task()
        ranking = rank_heads(model, task, **SMALL)
        every = extract(model, task, ranking, n_heads=12, layer=0)
        by_layer = [model.head_write(layer, ranking.z[layer]) * ranking.post_attn_gain[layer] for layer in range(3)]
        torch.testing.assert_close(every.vector, torch.stack(by_layer).sum(0), atol=1e-5, rtol=1e-4)


def test_bias_per_head_is_the_reference_codes_habit(tiny_model):
    model, task = tiny_model("gpt2", fresh=True), toy_task()  # its biases change, and other tests have the shared one
    with torch.no_grad():
        for block in model.tl.blocks:
            block.attn.o.bias.normal_()
    ranking = rank_heads(model, task, **SMALL)
    plain, habit = (extract(model, task, ranking, n_heads=5, layer=0, bias_per_head=b) for b in (False, True))
    biases = sum(model.tl.blocks[layer].attn.b_O * ranking.post_attn_gain[layer] for layer, _ in plain.heads)
    torch.testing.assert_close(habit.vector - plain.vector, biases, atol=1e-4, rtol=1e-3)


def test_a_ranking_of_another_task_is_refused(extracted):
    model, _, ranking, _ = extracted
    with pytest.raises(LensFVError, match="extract from a ranking for other: it was made on toy, with other pairs"):
        extract(model, toy_task(30, name="other"), ranking)


def test_layer_is_picked_on_validation(extracted):
    model, task, ranking, _ = extracted
    assert 0 <= extract(model, task, ranking, n_heads=4).layer < model.n_layers


@pytest.mark.parametrize("site", ["resid_post", "heads"])
def test_applied_is_what_the_engine_does(extracted, site):
    model, _, _, vector = extracted
    vector, prompt = vector.at(site=site, scale=1.5), [3, 1, 4, 1, 5]
    resid = run_branches(model, [prompt], [vector.edits()])
    before = model.forward(torch.tensor([prompt]))
    with vector.applied(model):
        inside = model.forward(torch.tensor([prompt]))
    torch.testing.assert_close(model.unembed(resid[0, 0, 0]), inside[0, -1], atol=1e-4, rtol=1e-4)
    assert torch.equal(before, model.forward(torch.tensor([prompt])))
    assert not torch.equal(before, inside)


def test_a_block_that_raises_leaves_no_hook(extracted):
    model, _, _, vector = extracted
    before = model.forward(torch.tensor([[1, 2]]))
    with pytest.raises(ZeroDivisionError), vector.applied(model):
        raise ZeroDivisionError
    assert torch.equal(before, model.forward(torch.tensor([[1, 2]])))


def test_another_model_is_refused(extracted, tiny_model):
    vector, other = extracted[3], tiny_model("llama")
    with (
        pytest.raises(
            LensFVError, match="made on model tiny-gemma3, this is tiny-llama; use that model, or insist by force=True"
        ),
        vector.applied(other),
    ):
        pass
    with vector.applied(other, force=True):
        other.forward(torch.tensor([[1, 2]]))


def test_another_basis_is_refused(extracted):
    model, _, _, vector = extracted
    elsewhere = replace(vector, provenance=replace(vector.provenance, weight_processing="compat"))
    with pytest.raises(LensFVError, match="basis of weight processing compat, this is raw"):
        decode(model, elsewhere)


def test_round_trip(extracted, tmp_path):
    vector = extracted[3]
    again = FunctionVector.load(vector.save(tmp_path / "v.safetensors"))
    assert torch.equal(again.vector, vector.vector)
    assert torch.equal(again.head_outputs, vector.head_outputs)
    assert (again.heads, again.layer, again.site, again.scale) == (vector.heads, vector.layer, vector.site, vector.scale)
    assert again.provenance == vector.provenance
    assert [p.name for p in tmp_path.iterdir()] == ["v.safetensors"]


def test_damaged_files_are_one_clear_error(extracted, tmp_path):
    path = extracted[3].save(tmp_path / "v.safetensors")
    whole = path.read_bytes()
    for content in [whole[: len(whole) // 2], b"", b"pickle?"]:
        path.write_bytes(content)
        with pytest.raises(LensFVError, match="not a complete safetensors file"):
            load_artefact(path)
    path.unlink()
    with pytest.raises(LensFVError, match="no such file"):
        load_artefact(path)
    ranking = extracted[2].save(path)
    with pytest.raises(LensFVError, match="holds a HeadRanking"):
        FunctionVector.load(ranking)


def test_wrong_shapes_are_refused(extracted):
    vector = extracted[3]
    for change, message in [
        ({"vector": torch.zeros(5)}, "expected floating point"),
        ({"vector": vector.vector * torch.nan}, "not finite"),
        ({"layer": 9}, "after layer 9: its model has layers 0 to 2"),
        ({"heads": (), "head_outputs": vector.head_outputs[:0], "site": "heads"}, "it has none"),
    ]:
        with pytest.raises(LensFVError, match=message):
            replace(vector, **change)


def test_random_like_has_its_length_and_place(extracted):
    vector = extracted[3].at(scale=2.0)
    control = random_like(vector, seed=5)
    torch.testing.assert_close(control.vector.norm(), 2 * vector.vector.norm())
    assert (control.layer, control.scale, control.provenance.method) == (vector.layer, 1.0, "random")
    assert torch.cosine_similarity(control.vector, vector.vector, dim=0).abs() < 0.6


def test_other_heads_are_as_many_of_the_same_layers(extracted):
    vector = extracted[3]
    control = other_heads(vector, seed=3)
    assert type(control) is type(vector)
    assert [layer for layer, _ in control.heads] == [layer for layer, _ in vector.heads]
    assert len(set(control.heads) - set(vector.heads)) == len(vector.heads)
    assert torch.equal(control.head_outputs, vector.head_outputs)
    assert control.provenance.method == "other heads"
    assert control.heads == other_heads(vector, seed=3).heads
    n = vector.provenance.shape[1] // 2 + 1
    many = tuple((0, head) for head in range(n))
    with pytest.raises(LensFVError, match=f"other heads than {n} of layer 0"):
        other_heads(replace(vector, heads=many, head_outputs=vector.head_outputs[:1].expand(n, -1).clone()))
    with pytest.raises(LensFVError, match="a vector that has none"):
        other_heads(random_like(vector))


def test_decode_is_the_models_own_readout(extracted):
    model, _, _, vector = extracted
    decoded = decode(model, vector, 5, words=["a", "walk"])
    logits = model.tl.unembed(model.tl.ln_final(vector.vector[None, None]))[0, 0]
    assert [p for _, p in decoded.tokens] == pytest.approx(logits.softmax(-1).topk(5).values.tolist(), abs=1e-5)
    first = model.encode(" walk", bos=False)[0]
    assert decoded.ranks["walk"] == logits.argsort(descending=True).tolist().index(first) + 1
