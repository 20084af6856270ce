"""Two models of one name are two models: by their weights, wherever something is kept or applied."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from architectures import random_weights
from helpers import made_provenance, toy_task

from lens_fv import load_model
from lens_fv.composition import TuneRecipe, VectorLibrary, build_library
from lens_fv.core.artefact import Provenance
from lens_fv.core.store import artefact_path
from lens_fv.errors import LensFVError
from lens_fv.finetuning import FinetuneConfig, FinetuneRun, finetune, switch_to_checkpoint
from lens_fv.heads import rank_heads
from lens_fv.knowledge import WeightDelta
from lens_fv.model import LensModel
from lens_fv.model.plain import own_weights, write_weights
from lens_fv.vectors import FunctionVector, decode, sweep_injection

OTHER = "was made on other weights, whose fingerprint is"
FEW = {"n_shots": 2, "n_clean": 3, "n_trials": 2}


@pytest.fixture(scope="module")
def folders(tiny_tokenizer, tmp_path_factory) -> list[Path]:
    """Two checkpoints of one name."""
    found: list[Path] = []
    for seed in (0, 1):
        folder = tmp_path_factory.mktemp(f"run{seed}") / "checkpoint-500"
        random_weights("llama", seed).save_pretrained(folder)
        transformers.AutoTokenizer.from_pretrained(tiny_tokenizer).save_pretrained(folder)
        found.append(folder)
    return found


@pytest.fixture(scope="module")
def models(folders) -> list[LensModel]:
    return [load_model(folder) for folder in folders]


@pytest.fixture(scope="module")
def vector(models) -> FunctionVector:
    return made_on(models[0])


def made_on(model: LensModel, **options) -> FunctionVector:
    about = {"task": "toy", "task_hash": "0", "prompts": [[1]], "seed": 0, "method": "made", "options": options}
    return FunctionVector(
        provenance=Provenance.of(model, **about),
        vector=torch.randn(model.d_model, generator=torch.Generator().manual_seed(0)),
        head_outputs=torch.zeros(0, model.d_head),
        layer=1,
        resid_norm=1.0,
    )


def test_they_have_one_name(models):
    assert models[0].name == models[1].name == "checkpoint-500"
    assert models[0].fingerprint != models[1].fingerprint


def test_a_vector_of_the_other_is_refused_unless_insisted_on(models, vector):
    first, second = models
    with vector.applied(first):
        pass
    for use in (
        lambda: vector.applied(second).__enter__(),
        lambda: sweep_injection(second, toy_task(), vector, layers=[1]),
        lambda: decode(second, vector),
    ):
        with pytest.raises(
            LensFVError,
            match=f"{OTHER} {first.fingerprint}, this is {second.fingerprint}; use that model, or insist by force=True",
        ):
            use()
    with vector.applied(second, force=True):
        pass


def test_files_of_before_and_weights_of_another_type_are_compared_by_name_alone(folders, models, vector):
    old = replace(vector, provenance=replace(vector.provenance, fingerprint=None))
    old.provenance.check(models[1])
    vector.provenance.check(load_model(folders[1], dtype="bfloat16"))


def test_a_change_in_place_is_noticed(folders):
    model = load_model(folders[0])
    vector = made_on(model)
    vector.provenance.check(model)
    with torch.no_grad():
        before = own_weights(model)["model.norm.weight"].clone()
        own_weights(model)["model.norm.weight"].add_(0.1)
    with pytest.raises(LensFVError, match=OTHER):
        vector.provenance.check(model)
    write_weights(model, {"model.norm.weight": before})
    vector.provenance.check(model)


def test_the_beginning_of_prompts_is_compared(models, vector):
    without = LensModel.wrap(models[0].tl, name=models[0].name, prepend_bos=not models[0].prepend_bos)
    with pytest.raises(LensFVError, match="was made of prompts with prepend_bos"):
        vector.provenance.check(without)


def test_a_ranking_that_is_kept_is_not_the_others(models, tmp_path):
    first, second = (rank_heads(model, toy_task(), folder=tmp_path, **FEW) for model in models)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    assert not torch.equal(first.effects, second.effects)
    again = rank_heads(models[1], toy_task(), folder=tmp_path, **FEW)
    assert torch.equal(again.effects, second.effects)
    assert artefact_path(tmp_path, type(first), first.provenance) != artefact_path(tmp_path, type(first), second.provenance)


def test_a_library_does_not_mix_them(models, tmp_path):
    recipe, tasks = TuneRecipe(n_pairs=6, steps=2), [toy_task(name="one"), toy_task(name="two")]
    first = build_library(models[0], tasks[:1], tmp_path / "kept", recipe)
    with pytest.raises(LensFVError, match="it holds one made with fingerprint"):
        build_library(models[1], tasks, tmp_path / "kept", recipe)
    second = build_library(models[1], tasks[1:], tmp_path / "other", recipe)
    with pytest.raises(LensFVError, match="compose vectors of 2 weights"):
        first.merge(second).basis(models[0])
    with pytest.raises(LensFVError, match=OTHER):
        VectorLibrary.load(tmp_path / "kept").basis(models[1])


def test_finetuning_does_not_go_on_with_the_others_run(folders, tmp_path):
    settings = FinetuneConfig(n_examples=4, batch_size=2, epochs=1, n_checkpoints=1, learning_rate=1e-2, rank=2)
    tasks = [toy_task(name="one")]
    run = finetune(folders[0], tasks, tmp_path / "run", settings)
    with pytest.raises(LensFVError, match=r"it was made with fingerprint \w{16} \(requested: \w{16}\); choose another folder"):
        finetune(folders[1], tasks, tmp_path / "run", settings)
    finetune(folders[0], tasks, tmp_path / "run", settings)
    model = load_model(folders[0])
    vector = made_on(model)
    switch_to_checkpoint(model, run, run.checkpoint())
    with pytest.raises(LensFVError, match="was made on"):
        vector.provenance.check(model)
    switch_to_checkpoint(model, run, None)
    vector.provenance.check(model)


def test_a_run_whose_model_was_replaced_says_so(folders, tmp_path):
    copy = tmp_path / "checkpoint-500"
    copy.mkdir()
    for file in folders[0].iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    settings = FinetuneConfig(n_examples=4, batch_size=2, epochs=1, n_checkpoints=1, learning_rate=1e-2, rank=2)
    run = finetune(copy, [toy_task(name="one")], tmp_path / "run", settings)
    (copy / "model.safetensors").write_bytes((folders[1] / "model.safetensors").read_bytes())
    with pytest.raises(LensFVError, match="holds other weights by now"):
        switch_to_checkpoint(load_model(folders[0]), FinetuneRun(tmp_path / "run"), run.checkpoint())


def test_an_update_goes_on_top_of_another(folders):
    model = load_model(folders[0])
    about = {"task": "toy", "task_hash": "0", "prompts": [[1]], "seed": 0, "method": "made", "options": {}}
    made, vector = Provenance.of(model, **about), made_on(model)
    delta = WeightDelta(provenance=made, dense={"model.norm.weight": torch.ones(32)}, down={}, up={}, skipped={})
    with delta.applied(model), delta.applied(model), pytest.raises(LensFVError, match=OTHER):
        vector.provenance.check(model)
    vector.provenance.check(model)
    other = replace(delta, provenance=replace(made, fingerprint=made_provenance().fingerprint))
    with pytest.raises(LensFVError, match=OTHER):
        other.applied(model).__enter__()


def test_processing_keeps_the_fingerprint_through_a_run(folders, tmp_path):
    settings = FinetuneConfig(n_examples=4, batch_size=2, epochs=1, n_checkpoints=1, learning_rate=1e-2, rank=2)
    run = finetune(folders[0], [toy_task(name="one")], tmp_path / "run", settings)
    model = load_model(folders[0], weight_processing="compat")
    before = model.fingerprint
    switch_to_checkpoint(model, run, run.checkpoint())
    assert model.fingerprint != before == run.about["fingerprint"]
    switch_to_checkpoint(model, run, None)
    assert model.fingerprint == before
