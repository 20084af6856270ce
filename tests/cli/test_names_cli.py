"""Commands write where they are, whatever a task is called."""

import json

from helpers import toy_task
from test_commands import QUICK
from test_training_cli import PLAINLY, TRAIN

OUT = "../../escaped"


def test_a_task_named_like_a_path(run, tmp_path, monkeypatch):
    here = tmp_path / "a" / "b"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    pairs = [{"input": p.input, "output": list(p.outputs)} for p in toy_task().pairs]
    for name, file in ((OUT, "odd.json"), ("two words", "two.json")):
        (here / file).write_text(json.dumps({"name": name, "instructions": ["Say it."], "pairs": pairs}))
    before = {path for path in tmp_path.iterdir() if path.name != "a"}
    code, ranked, _ = run("rank", "--task", "odd.json", *QUICK)
    assert code == 0
    assert run("extract", "--task", "odd.json", "--ranking", ranked["file"], "--layer", "1")[0] == 0
    assert run("tune", "--task", "odd.json", "--n-pairs", "4", "--steps", "2", "--layers", "1", "--n-shots", "2")[0] == 0
    quick = ["--n-pairs", "4", "--steps", "2"]
    assert run("library", "build", "--task", "odd.json", *quick, "--out", "kept")[0] == 0
    assert run("finetune", "--task", "odd.json", "--task", "two.json", *TRAIN, "--out", "run")[0] == 0
    code, followed, _ = run("dynamics", "run", *PLAINLY, model=False)
    assert code == 0
    assert [v["task"] for v in followed["verdicts"]] == [OUT, "two words"]
    assert {path for path in tmp_path.iterdir() if path.name != "a"} == before
    assert list((tmp_path / "a").iterdir()) == [here]
