"""finetune and dynamics, end to end, on a tiny model in a folder."""

import json

from test_commands import run  # noqa: F401

TRAIN = ["--examples", "8", "--batch", "4", "--checkpoints", "2", "--rank", "2", "--learning-rate", "0.01"]
ASK = ["--clean", "2", "--trials", "2", "--heads", "2", "--items", "3", "--context", "1"]


def test_train_and_follow(run, tmp_path):  # noqa: F811
    tasks = ["--task", "antonym", "--task", "present-past"]
    code, trained, _ = run("finetune", *tasks, *TRAIN, "--out", "mine")
    assert code == 0
    assert [c["checkpoint"] for c in trained["checkpoints"]] == [
        "0-antonym/1",
        "0-antonym/2",
        "1-present-past/1",
        "1-present-past/2",
    ]
    assert all((tmp_path / c["folder"] / "adapter_model.safetensors").is_file() for c in trained["checkpoints"])
    code, again, _ = run("finetune", *tasks, *TRAIN, "--out", "mine")
    assert again == trained
    code, found, _ = run("dynamics", "mine", "--task", "synonym", "--task", "antonym", *ASK, model=False)
    assert code == 0
    assert [v["task"] for v in found["verdicts"]] == ["antonym", "present-past", "synonym"]
    assert {v["judgement"] for v in found["verdicts"]} <= {"kept", "suppressed", "overwritten", "undecided"}
    assert len(found["moments"]) == 5 * 3
    assert found["moments"][0]["cosine"] > 0.999
    assert found["moments"][0]["accuracy"]["n"] == 3
    assert found["moments"][0]["head_overlap"]["jaccard"] == 1
    assert found["moments"][3]["head_overlap"] is None  # in the middle of a task
    assert found["moments"][-1]["head_overlap"]["jaccard"] <= 1
    assert found["metrics"]["forgetting"] == found["metrics"]["average"] - found["metrics"]["final"]
    assert run("show", found["file"], model=False)[1]["kind"] == "Trajectory"
    page = (tmp_path / found["report"]).read_text()
    assert all(f'<th scope="row">{task}</th>' in page for task in ("antonym", "present-past", "synonym"))
    figures = {file.stem for file in (tmp_path / "mine" / "dynamics" / "figures").glob("*.html")}
    assert {"recovery", "forgetting", "abilities", "similarity", "plane", "heads-antonym"} <= figures
    assert json.loads((tmp_path / "mine" / "dynamics" / "dynamics.json").read_text()) == found
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "mine" / "dynamics" / "moments").iterdir()}
    assert run("dynamics", "mine", "--task", "synonym", *ASK, model=False)[1] == found
    assert before == {file: file.stat().st_mtime_ns for file in before}
    code, _, error = run("dynamics", "mine", "--task", "synonym", *ASK, "--seed", "1", model=False)
    assert code == 2
    assert "is of other questions; choose another folder" in error


def test_a_mixture_becomes_a_model_of_its_own(run, tmp_path):  # noqa: F811
    tasks = ["--task", "antonym", "--task", "present-past"]
    code, trained, _ = run("finetune", *tasks, *TRAIN, "--mixed", "--out", "mine")
    assert code == 0
    assert [c["checkpoint"] for c in trained["checkpoints"]] == ["0-mixture/2", "0-mixture/4"]
    code, made, _ = run("export", "mine", "--out", "mixed", model=False)
    assert code == 0
    assert made["checkpoint"] == "0-mixture/4"
    code, again, _ = run("finetune", "--model", "mixed", "--task", "antonym", *TRAIN, "--out", "second", model=False)
    assert code == 0
    assert again["model"] == "mixed"
    code, _, error = run("export", "mine", "--out", "mixed", model=False)
    assert code == 2
    assert "export a checkpoint to mixed: it is there already" in error
    code, _, error = run("export", "mine", "--checkpoint", "5", "--out", "other", model=False)
    assert code == 2
    assert "checkpoint 5 of the run in mine: it has 0-mixture/2, 0-mixture/4" in error


def test_what_is_no_run_is_said(run):  # noqa: F811
    code, _, error = run("dynamics", "nowhere", model=False)
    assert code == 2
    assert "fine-tuning run in nowhere: no run.json there" in error
    code, _, error = run("finetune", "--task", "antonym", "--task", "antonym", *TRAIN)
    assert code == 2
    assert "give at least one, and each a name of its own" in error
