"""The commands rank and universal, on a tiny model in a folder."""

import json
from dataclasses import replace

import pytest
import torch
from helpers import toy_task

from lens_fv.core.artefact import load_artefact
from lens_fv.heads import HeadRanking
from lens_fv.heads.competence import Competence

QUICK = ["--n-shots", "2", "--n-clean", "3", "--n-trials", "4"]


@pytest.fixture
def quick(run, tmp_path):
    """`run`, with few prompts, and two files of pairs."""
    pairs = toy_task(30).pairs
    (tmp_path / "other.json").write_text(json.dumps([{"input": p.input, "output": list(p.outputs)} for p in pairs]))
    return lambda *arguments, **options: run(*arguments, *QUICK, **options)


def test_rank_takes_every_option(quick, tmp_path):
    code, plain, _ = quick("rank", "--task", "toy.json")
    assert code == 0
    assert 0 <= plain["reliability"]["overlap"] <= 1
    for options in (
        ["--metric", "logit_diff", "--correction", "max"],
        ["--source", "zero"],
        ["--source", "resample", "--mode", "add"],
        ["--source", plain["file"], "--corruption", "zero_shot"],
        ["--corruption", "instruction", "--instruction", "Say it.", "--other-instruction", "Go."],
        ["--corruption", "noise", "--noise", "1"],
        ["--unit", "group"],
    ):
        code, result, err = quick("rank", "--task", "toy.json", "--out", "r.safetensors", *options)
        assert code == 0, err
        recorded = HeadRanking.load(tmp_path / "r.safetensors").provenance.options
        for name, value in zip(options[::2], options[1::2], strict=True):
            if name not in ("--correction", "--source", "--noise"):
                assert recorded[name[2:].replace("-", "_")] == value
        assert result["heads"] != plain["heads"]
        assert all(0 < h["p_value"] <= 1 for h in result["heads"])
    assert len(result["heads"]) == 6  # three layers of two groups


def test_only_what_the_model_answers(quick):
    """This model answers nothing: an error that says so, wherever it is asked."""
    for command in ("rank", "extract"):
        code, _, err = quick(command, "--task", "toy.json", "--queries", "answered", as_json=False)
        assert (code, err.count("\n")) == (2, 1)
        assert "after 2 demonstrations it answers none of 6 queries" in err
    code, result, _ = quick("rank", "--task", "toy.json")
    assert (code, result["queries"]) == (0, {"selection": "all"})


def test_rank_draws_a_table(quick):
    code, out, _ = quick("rank", "--task", "toy.json", "--top", "3", as_json=False)
    assert code == 0
    assert "p-values corrected by holm" in " ".join(out.split())
    assert out.count("[") == 3


def test_universal(quick, tmp_path):
    """This model does neither task, which is an error that says so; what was found on the way is kept."""
    code, _, err = quick("universal", "--task", "toy.json", "--task", "other.json", "--folder", "kept", as_json=False)
    assert (code, err.count("\n")) == (2, 1)
    assert "does none of the tasks: toy 0.00" in err
    assert len(list((tmp_path / "kept").iterdir())) == 2


def test_universal_writes_what_it_says(quick, tmp_path):
    """Where the folder says that the model does one of two tasks, that one is ranked."""
    universal = ["universal", "--task", "toy.json", "--task", "other.json", "--folder", "kept", "--unit", "group"]
    assert quick(*universal, as_json=False)[0] == 2
    file = next((tmp_path / "kept").glob("toy-Competence-*"))
    accuracy = Competence.load(file)
    replace(accuracy, right=torch.ones_like(accuracy.right), majority=0.5).save(file)
    code, result, err = quick(*universal, "--correction", "bh")
    assert code == 0, err
    assert [(row["task"], row["kept"]) for row in result["tasks"]] == [("toy", True), ("other", False)]
    assert len(result["heads"]) == 6
    assert result["reliability"] is None
    assert result["queries"] == {"selection": "all"}
    n = len(accuracy.right)
    assert quick(*universal, "--queries", "answered")[1]["queries"] == {"selection": "answered", "n_queries": n, "n_items": n}
    assert repr(load_artefact(tmp_path / result["file"])).startswith("UniversalHeads")
    code, out, _ = quick(*universal, as_json=False)
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines() if line.startswith(("toy ", "other "))] == [
        ["toy", "yes"],
        ["other", "no"],
    ]
    assert "p-values corrected by holm" in " ".join(out.split())
