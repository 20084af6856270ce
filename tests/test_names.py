"""Names of tasks, models and checkpoints never lead out of a folder."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import made_provenance, toy_task

from lens_fv.composition import TuneRecipe, VectorLibrary, build_library
from lens_fv.core.files import file_name, path_inside
from lens_fv.core.store import artefact_path
from lens_fv.errors import LensFVError
from lens_fv.finetuning import FinetuneConfig, finetune
from lens_fv.model import load_model
from lens_fv.vectors import FunctionVector

NAMES = ["../../escaped", "/tmp/escaped", "..", ".", "", "\0", "a\0b", "x" * 5000, "é" * 200, "\ud800", "a b", "C:\\x", ".x"]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_becomes_one_of_a_file(tmp_path, name):
    found = file_name(name)
    assert Path(found).name == found not in ("", ".", "..")
    assert len(found.encode()) < 120
    (tmp_path / f"{found}.safetensors").write_bytes(b"")
    assert [path.name for path in tmp_path.iterdir()] == [f"{found}.safetensors"]


def test_plain_names_stay_and_no_two_become_one():
    plain = ["present-past", "antonym", "word_length", "Llama-3.2-1B", "straße"]
    assert [file_name(name) for name in plain] == plain
    alike = ["a b", "a-b", "a  b", "a/b", " a-b", "../a-b", "x" * 5000, "x" * 5001]
    assert len({file_name(name) for name in alike}) == len(alike)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "..", ".", "", "a\0b", "..\\x"])
def test_what_is_read_names_files_beside_it(tmp_path, name):
    with pytest.raises(LensFVError, match="only files of the same folder are read"):
        path_inside(tmp_path, name, what="the index")
    assert path_inside(tmp_path, "a b.safetensors", what="the index") == tmp_path / "a b.safetensors"


def everything(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["../../escaped", "two words", "x" * 300])
def test_a_library_stays_in_its_folder(tiny_model, tmp_path, name):
    folder = tmp_path / "a" / "b" / "kept"
    made = build_library(tiny_model(), [toy_task(name=name)], folder, TuneRecipe(n_pairs=6, steps=2))
    assert {path.parent for path in everything(tmp_path)} == {folder}
    assert VectorLibrary.load(folder).names == (name,)
    assert torch.equal(VectorLibrary.load(folder)[name].vector, made[name].vector)
    made.save(tmp_path / "a" / "b" / "copy")
    assert {path.parent for path in everything(tmp_path)} == {folder, tmp_path / "a" / "b" / "copy"}


@pytest.mark.parametrize("file", ["../outside.safetensors", "/etc/passwd", "..", 3, None, "a\0"])
def test_a_library_that_names_files_elsewhere_is_refused(tiny_model, tmp_path, file):
    build_library(tiny_model(), [toy_task()], tmp_path / "kept", TuneRecipe(n_pairs=6, steps=2))
    index = json.loads((tmp_path / "kept" / "library.json").read_text())
    index["entries"][0]["file"] = file
    (tmp_path / "kept" / "library.json").write_text(json.dumps(index))
    with pytest.raises(LensFVError):
        VectorLibrary.load(tmp_path / "kept")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_kept_stays_in_its_folder(tmp_path, name):
    path = artefact_path(tmp_path, FunctionVector, replace(made_provenance(), task=name))
    assert path.parent == tmp_path
    assert len(path.name.encode()) < 200


def test_a_run_and_what_follows_it_stay_in_their_folders(model_folder, tmp_path):
    settings = FinetuneConfig(n_examples=4, batch_size=2, epochs=1, n_checkpoints=1, learning_rate=1e-2, rank=2)
    folder = tmp_path / "a" / "b" / "run"
    run = finetune(model_folder, [toy_task(name="../../escaped")], folder, settings)
    assert all(folder in path.parents for path in everything(tmp_path))
    assert run.tasks == ["../../escaped"]
    assert run.load_tasks()[0].name == "../../escaped"
    assert run.checkpoint().name.startswith("0-../../escaped/")


def test_an_index_of_weights_names_files_beside_it(model_folder, tmp_path):
    folder = tmp_path / "sharded"
    folder.mkdir()
    for file in model_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    index = {"metadata": {}, "weight_map": {"lm_head.weight": str(model_folder / "model.safetensors")}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(LensFVError, match="only files of the same folder are read"):
        load_model(folder)
