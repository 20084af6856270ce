"""The command decode, on a tiny model in a folder."""

import json

import pytest

from lens_fv.composition import TuneRecipe, build_library
from lens_fv.model import load_model
from lens_fv.tasks import load_task
from lens_fv.vectors import FunctionVector, decode


@pytest.fixture
def decoded(run, model_folder):
    """`decoded(...)`: what `run` says of the command decode, in a folder with a library of two tasks."""
    tasks = [load_task("present-past"), load_task("toy.json")]
    build_library(load_model(str(model_folder)), tasks, "library", TuneRecipe(layer=1, n_pairs=4, steps=2, learning_rate=0.1))
    return lambda *arguments, **options: run("decode", *arguments, **options)


def test_a_library_and_a_single_vector_are_read(decoded, model_folder, tmp_path):
    code, result, _ = decoded("library", "--words", "walk", "--task", "toy.json", "--k", "3", "--out", "report.json")
    assert code == 0
    assert json.loads((tmp_path / "report.json").read_text()) == result
    past, toy = result["vectors"]
    assert (past["name"], toy["name"], past["method"], past["layer"]) == ("present-past", "toy", "tuned", 1)
    assert set(past["ranks"]) == {"walk", *load_task("present-past").relation_words}
    assert set(toy["ranks"]) == {"walk"}
    assert len(toy["tokens"]) == 3
    assert "words" not in toy  # a file of pairs names no relation words
    assert past["words"]["best_rank"] == min(rank for word, rank in past["ranks"].items() if word != "walk")
    by = {(r["of"], r["measure"]): r for r in result["summary"]}
    assert (by["words", "best_rank"]["n"], by["answers", "best_rank"]["n"]) == (1, 2)
    mean = (past["answers"]["top10"] + toy["answers"]["top10"]) / 2
    assert by["answers", "top10"]["value"] == pytest.approx(mean)

    code, alone, _ = decoded("library/present-past.safetensors", "--words", "walk", "--k", "3")
    assert code == 0
    assert alone["vectors"] == [past]
    vector = FunctionVector.load("library/present-past.safetensors")
    again = decode(load_model(str(model_folder)), vector, 3, words=["walk"])
    assert alone["vectors"][0]["ranks"]["walk"] == again.ranks["walk"]

    code, centred, _ = decoded("library", "--task", "toy.json", "--centred")
    assert code == 0
    assert centred["centred"]
    assert centred["vectors"][0]["answers"] != past["answers"]
    code, later, _ = decoded("library", "--task", "toy.json", "--k", "3", "--through-layers")
    assert code == 0
    assert (later["through_layers"], result["through_layers"], later["centred"]) == (True, False, False)
    assert later["vectors"][0]["tokens"] != past["tokens"]


def test_vectors_without_a_known_task_are_read_all_the_same(decoded):
    code, result, _ = decoded("library/toy.safetensors")
    assert code == 0
    assert result["summary"] == []
    assert len(result["vectors"][0]["tokens"]) == 10
    code, printed, _ = decoded("library/toy.safetensors", as_json=False)
    assert code == 0
    assert "likeliest tokens" in printed and "mean over relations" not in printed


def test_what_cannot_be_read_is_one_line(decoded, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.json").write_text('[{"input": "a", "output": "b"}]')
    for arguments, message in [
        (["empty"], "it has no library.json"),
        (["nowhere.safetensors"], "no such file"),
        (["library", "--task", "other.json"], "no vector is of other with these pairs"),
        (["library/present-past.safetensors", "--centred"], "centre the decoding of present-past alone"),
    ]:
        code, _, err = decoded(*arguments, as_json=False)
        assert (code, err.count("\n")) == (2, 1), err
        assert message in err
