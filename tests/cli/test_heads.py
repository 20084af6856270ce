"""The commands rank and universal, on a tiny model in a folder."""

import json

import pytest
from helpers import toy_task

from lens_fv.cli.app import execute
from lens_fv.patching import HeadRanking

QUICK = ["--shots", "2", "--clean", "3", "--trials", "4"]


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
        assert all(0 < h["p"] <= 1 for h in found["heads"])
    assert len(found["heads"]) == 6  # three layers of two groups


def test_rank_draws_a_table(run):
    code, out, _ = run("rank", "--task", "toy.json", "--top", "3", as_json=False)
    assert code == 0
    assert "p (holm)" in out
    assert out.count("[") == 3


def test_universal(run, tmp_path):
    """This model does neither task, which is an error that says so; what was found on the way is kept."""
    code, _, err = run("universal", "--task", "toy.json", "--task", "other.json", "--folder", "kept", as_json=False)
    assert (code, err.count("\n")) == (2, 1)
    assert "does none of the tasks: toy 0.00" in err
    assert len(list((tmp_path / "kept").iterdir())) == 2


def test_universal_writes_what_it_says(run, tmp_path, model_folder):
    """Of a task whose validation answers are what the model says."""
    import torch

    from lens_fv import load_model, load_task, split_pairs
    from lens_fv.tasks import build_prompts, encode_prompts

    model, task = load_model(str(model_folder)), load_task("toy.json")
    split = split_pairs(task, seed=0)
    made = encode_prompts(model, build_prompts(split.validation, split.train, n_shots=2, seed=0))
    rows = {p.input: list(p.outputs) for p in task.pairs}
    print([model.decode(int(model.forward(torch.tensor([p.tokens]))[0, -1].argmax())) for p in made])
