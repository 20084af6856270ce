"""The commands rank and universal, on a tiny model in a folder."""

import json
from dataclasses import replace

import pytest
import torch
from helpers import toy_task

from lens_fv.cli.app import execute
from lens_fv.core.artefact import load_artefact
from lens_fv.heads import HeadRanking
from lens_fv.heads.competence import Competence

QUICK = ["--n-shots", "2", "--n-clean", "3", "--n-trials", "4"]


@pytest.fixture
def run(model_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("toy", "other"):
        pairs = toy_task(40 if name == "toy" else 30).pairs
        (tmp_path / f"{name}.json").write_text(json.dumps([{"input": p.input, "output": list(p.outputs)} for p in pairs]))

    def go(*arguments, as_json=True):
        code = execute([*arguments, "--model", str(model_folder), *QUICK, *(["--json"] if as_json else [])])
        out, err = capsys.readouterr()
        return code, json.loads(out) if as_json and out else out, err

    return go


def test_rank_takes_every_option(run, tmp_path):
    code, plain, _ = run("rank", "--task", "toy.json")
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
        code, found, err = run("rank", "--task", "toy.json", "--out", "r.safetensors", *options)
        assert code == 0, err
        said = HeadRanking.load(tmp_path / "r.safetensors").provenance.options
        for name, value in zip(options[::2], options[1::2], strict=True):
            if name not in ("--correction", "--source", "--noise"):
                assert said[name[2:].replace("-", "_")] == value
        assert found["heads"] != plain["heads"]
        assert all(0 < h["p_value"] <= 1 for h in found["heads"])
    assert len(found["heads"]) == 6  # three layers of two groups


def test_only_what_the_model_answers(run):
    """This model answers nothing: an error that says so, wherever it is asked."""
    for command in ("rank", "extract"):
        code, _, err = run(command, "--task", "toy.json", "--queries", "answered", as_json=False)
        assert (code, err.count("\n")) == (2, 1)
        assert "after 2 demonstrations it answers none of 6 queries" in err
    code, found, _ = run("rank", "--task", "toy.json")
    assert (code, found["queries"]) == (0, {"selection": "all"})


def test_rank_draws_a_table(run):
    code, out, _ = run("rank", "--task", "toy.json", "--top", "3", as_json=False)
    assert code == 0
    assert "p-values corrected by holm" in " ".join(out.split())
    assert out.count("[") == 3


def test_universal(run, tmp_path):
    """This model does neither task, which is an error that says so; what was found on the way is kept."""
    code, _, err = run("universal", "--task", "toy.json", "--task", "other.json", "--folder", "kept", as_json=False)
    assert (code, err.count("\n")) == (2, 1)
    assert "does none of the tasks: toy 0.00" in err
    assert len(list((tmp_path / "kept").iterdir())) == 2


def test_universal_writes_what_it_says(run, tmp_path):
    """Where the folder says that the model does one of two tasks, that one is ranked."""
    universal = ["universal", "--task", "toy.json", "--task", "other.json", "--folder", "kept", "--unit", "group"]
    assert run(*universal, as_json=False)[0] == 2
    file = next((tmp_path / "kept").glob("toy-Competence-*"))
    found = Competence.load(file)
    replace(found, right=torch.ones_like(found.right), majority=0.5).save(file)
    code, said, err = run(*universal, "--correction", "bh")
    assert code == 0, err
    assert [(row["task"], row["kept"]) for row in said["tasks"]] == [("toy", True), ("other", False)]
    assert len(said["heads"]) == 6
    assert said["reliability"] is None
    assert said["queries"] == {"selection": "all"}
    n = len(found.right)
    assert run(*universal, "--queries", "answered")[1]["queries"] == {"selection": "answered", "n_queries": n, "n_items": n}
    assert repr(load_artefact(tmp_path / said["file"])).startswith("UniversalHeads")
    code, out, _ = run(*universal, as_json=False)
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines() if line.startswith(("toy ", "other "))] == [
        ["toy", "yes"],
        ["other", "no"],
    ]
    assert "p-values corrected by holm" in " ".join(out.split())
