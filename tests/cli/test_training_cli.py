"""finetune and dynamics, end to end, on a tiny model in a folder."""

import json

from planted import planted_tasks, planted_weights

TRAIN = ["--n-examples", "8", "--batch-size", "4", "--n-checkpoints", "2", "--rank", "2", "--learning-rate", "0.01"]
ASK = ["--n-clean", "2", "--n-trials", "2", "--n-heads", "2", "--max-items", "3", "--n-context", "1"]
PLAINLY = [*ASK, "--counterpart", "none"]
"""Without searching for texts as likely as an instruction, which takes most of the time."""


def test_train_and_follow(run, tmp_path):
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
    code, result, _ = run("dynamics", "mine", "--task", "synonym", "--task", "antonym", *PLAINLY, model=False)
    assert code == 0
    assert [v["task"] for v in result["verdicts"]] == ["antonym", "present-past", "synonym"]
    # random weights do none of them
    assert [(v["judgement"], v["before"], v["p_lost"], v["recovery"]) for v in result["verdicts"]] == [
        ("absent", 0, None, None)
    ] * 3
    assert result["metrics"]["general"] is None
    assert len(result["measurements"]) == 5 * 3
    assert result["measurements"][0]["cosine"] > 0.999
    assert result["measurements"][0]["accuracy"]["n"] == 3
    assert result["measurements"][0]["head_overlap"]["jaccard"] == 1
    assert result["measurements"][3]["head_overlap"] is None  # in the middle of a task
    assert result["measurements"][-1]["head_overlap"]["jaccard"] <= 1
    assert result["metrics"]["forgetting"] == result["metrics"]["average"] - result["metrics"]["final"]
    assert run("show", result["file"], model=False)[1]["kind"] == "Trajectory"
    page = (tmp_path / result["report"]).read_text()
    assert all(f'<th scope="row">{task}</th>' in page for task in ("antonym", "present-past", "synonym"))
    figures = {file.stem for file in (tmp_path / "mine" / "dynamics" / "figures").glob("*.html")}
    assert {"recovery", "forgetting", "abilities", "similarity", "plane", "heads-antonym"} <= figures
    assert json.loads((tmp_path / "mine" / "dynamics" / "dynamics.json").read_text()) == result
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "mine" / "dynamics" / "measurements").iterdir()}
    assert run("dynamics", "mine", "--task", "synonym", *PLAINLY, model=False)[1] == result
    assert before == {file: file.stat().st_mtime_ns for file in before}
    code, _, error = run("dynamics", "mine", "--task", "synonym", *PLAINLY, "--seed", "1", model=False)
    assert code == 2
    assert "was measured with other probes; choose another folder" in error


def test_guided_training_and_averages(run, tmp_path):
    """Vectors find their tasks by themselves; what keeps earlier tasks is written down; an averaged run is a run."""
    files = []
    for task in ("antonym", "present-past"):
        code, extracted, _ = run(
            "iv", "extract", "--task", task, "--n-clean", "2", "--n-trials", "1", "--n-heads", "2", "--out", f"{task}.st"
        )
        assert code == 0
        files += ["--vector", extracted["file"]]
    tasks = ["--task", "antonym", "--task", "present-past"]
    code, result, _ = run("finetune", *tasks, *TRAIN, "--guide", "iv", *files, "--replay", "0.25", "--out", "guided")
    assert code == 0
    about = json.loads((tmp_path / "guided" / "run.json").read_text())
    assert (about["settings"]["guide"]["intervene"], about["settings"]["replay"]) == (-1.0, 0.25)
    assert {file.name for file in (tmp_path / "guided" / "vectors").iterdir()} == {
        "0-antonym.safetensors",
        "1-present-past.safetensors",
    }
    assert run("finetune", *tasks, *TRAIN, "--guide", "iv", *files, "--random-vectors", "--out", "random")[0] == 0
    code, _, error = run("finetune", *tasks, *TRAIN, "--guide", "fv", "--out", "none", as_json=False)
    assert (code, "there is no vector of it" in error) == (2, True)
    code, half, _ = run("interpolate", "guided", "--share", "0.5", "--out", "half", model=False)
    assert (code, half["checkpoints"]) == (0, [c["checkpoint"] for c in result["checkpoints"]])
    assert run("export", "half", "--out", "exported", model=False)[0] == 0


def test_a_mixture_becomes_a_model_of_its_own(run, tmp_path):
    tasks = ["--task", "antonym", "--task", "present-past"]
    code, trained, _ = run("finetune", *tasks, *TRAIN, "--mixed", "--out", "mine")
    assert code == 0
    assert [c["checkpoint"] for c in trained["checkpoints"]] == ["0-mixture/2", "0-mixture/4"]
    code, followed, _ = run("dynamics", "mine", *ASK, model=False)
    assert code == 0
    assert followed["metrics"] is None
    assert [row["checkpoint"] for row in followed["measurements"]] == ["0"] * 2 + ["0-mixture/2"] * 2 + ["0-mixture/4"] * 2
    code, exported, _ = run("export", "mine", "--out", "mixed", model=False)
    assert code == 0
    assert exported["checkpoint"] == "0-mixture/4"
    code, again, _ = run("finetune", "--model", "mixed", "--task", "antonym", *TRAIN, "--out", "second", model=False)
    assert code == 0
    assert again["model"] == "mixed"
    code, _, error = run("export", "mine", "--out", "mixed", model=False)
    assert code == 2
    assert "export a checkpoint to mixed: it is there already" in error
    code, _, error = run("export", "mine", "--checkpoint", "5", "--out", "other", model=False)
    assert code == 2
    assert "checkpoint 5 of the run in mine: it has 0-mixture/2, 0-mixture/4" in error


def test_what_is_no_run_is_said(run):
    code, _, error = run("dynamics", "nowhere", model=False)
    assert code == 2
    assert "fine-tuning run in nowhere: no run.json there" in error
    code, _, error = run("finetune", "--task", "antonym", "--task", "antonym", *TRAIN)
    assert code == 2
    assert "give at least one, and each a name of its own" in error


def test_the_study_is_made_once_and_reported(run, tmp_path):
    model = tmp_path / "planted"
    planted_weights(model).save_pretrained(model)
    for task in planted_tasks():
        task.save(tmp_path / f"{task.name}.json")
    sequences = 'sequences={"both": ["task0.json", "task1.json"]}'
    options = ["--model", str(model), "--set", sequences, "--set", "n_heads=2", "--quick", "--out", "page"]
    code, result, _ = run("reproduce", "instruction", *options, model=False)
    assert code == 0
    (only,) = result["models"].values()
    assert only["runs"] == 1
    assert (tmp_path / "page" / "instruction.md").is_file()
    code, again, _ = run("reproduce", "instruction", "--report-only", "--out", "page", model=False)
    assert code == 0
    assert list(again["models"].values()) == [only]
    code, _, error = run("reproduce", "instruction", *options, "--seed", "5", model=False)
    assert code == 2
    assert "it was run with seeds [0] (requested: [5]); choose another folder" in error
    code, _, error = run("reproduce", "instruction", *options, "--part", "everything", model=False)
    assert code == 2
    assert "run part everything of the study" in error
