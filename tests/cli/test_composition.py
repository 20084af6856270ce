"""library, compose and analogy, end to end, on a tiny model in a folder."""

import json

import pytest
from helpers import written

FEW = ["--n-pairs", "6", "--steps", "2"]
NAMES = ["antonym", "synonym", "present-past", "country-capital", "first-letter"]
TASKS = [part for name in NAMES for part in ("--task", name)]


@pytest.fixture
def built(run):
    assert run("library", "build", *TASKS, *FEW, "--out", "lib")[0] == 0
    return "lib"


def test_build_list_show(run, built, tmp_path):
    code, listed, _ = run("library", "list", built, model=False)
    assert code == 0
    assert sorted(v["name"] for v in listed["vectors"]) == sorted(NAMES)
    assert {"group", "family", "layer", "norm", "gain", "logprob", "top1"} <= set(listed["vectors"][0])
    code, part, _ = run("library", "list", built, "--family", "inflection", "--out", "part.json", model=False)
    assert [v["name"] for v in part["vectors"]] == ["present-past"]
    assert json.loads((tmp_path / "part.json").read_text()) == part
    code, shown, _ = run("library", "show", built, "antonym")
    assert code == 0
    assert len(shown["decoded"]) == 10
    before = written(tmp_path / "lib")
    code, again, _ = run("library", "build", *TASKS, "--task", "toy.json", *FEW, "--out", "lib")
    assert len(again["vectors"]) == 6
    after = written(tmp_path / "lib")
    assert {path.name for path in before if after[path] != before[path]} == {"library.json"}


def test_compose_and_complete(run, built):
    code, composed, _ = run("compose", "hot:cold", "big:small", "--library", built, "--query", "tall", "--top-k", "2")
    assert code == 0
    assert len([w for w in composed["weights"].values() if w > 0]) == 2
    assert sum(composed["weights"].values()) == pytest.approx(1, abs=1e-4)
    assert 0 <= composed["stability"] <= 1
    assert len(composed["completions"]["tall"]) == 5
    assert run("show", composed["file"], model=False)[1]["kind"] == "CompositeVector"


def test_the_model_is_the_library_s_own(run, built, model_folder, tmp_path):
    code, _, error = run("compose", "hot:cold", "--library", built, model=False)
    assert (code, error.count("\n")) == (2, 1)
    assert "the library's own model: no model 'tiny'" in error
    assert error.endswith("say where it is by --model\n")
    (tmp_path / "tiny").symlink_to(model_folder)
    code, composed, _ = run("compose", "hot:cold", "--library", built, model=False)
    assert (code, composed["model"]) == (0, "tiny")
    assert composed == run("compose", "hot:cold", "--library", built)[1]


def test_libraries_are_merged(run, built):
    assert run("library", "build", "--task", "toy.json", *FEW, "--out", "more")[0] == 0
    code, merged, _ = run("library", "merge", built, "more", "--out", "both", model=False)
    assert code == 0
    assert [v["name"] for v in merged["vectors"]][-1] == "toy"
    code, _, error = run("library", "merge", built, "both", "--out", "other", model=False)
    assert (code, " twice; rename or leave out one" in error) == (2, True)


def test_fit_a_map_and_solve_analogies(run, built, tmp_path):
    code, fitted, _ = run("library", "fit", built, "--form", "full", "--epochs", "1", "--max-per-relation", "4")
    assert code == 0
    code, solved, _ = run(
        "analogy", "--library", built, "--weight-map", fitted["file"], "--max-per-relation", "2", "--out", "a.safetensors"
    )
    assert code == 0
    assert solved["analogies"] == 10
    conditions = [r["condition"] for r in solved["results"]]
    assert {"none", "one_shot", "composite", "fitted", "best", "mean", "random", "other_source"} < set(conditions)
    assert solved["near"][0]["n"] + solved["far"][0]["n"] == 10
    one_shot, composite = (next(r for r in solved["results"] if r["condition"] == c) for c in ("one_shot", "composite"))
    paired = {(d["condition"], d["measure"]): d for d in solved["differences"]}
    assert set(paired) == {
        (c, m) for c in ("composite", "fitted", "one_shot_composite", "one_shot_fitted") for m in ("top1", "logprob")
    }
    difference = paired["composite", "logprob"]
    assert difference["mean"] == pytest.approx(
        composite["logprob_per_token_nats"] - one_shot["logprob_per_token_nats"], abs=1e-5
    )
    assert (difference["reference"], difference["n"]) == ("one_shot", 10)
    assert difference["ci_low"] <= difference["mean"] <= difference["ci_high"]
    by_relation = solved["by_relation"]
    assert sum(rows[0]["n"] for rows in by_relation.values()) == 10
    for i, overall in enumerate(solved["results"]):
        parts = [rows[i] for rows in by_relation.values()]
        assert {row["condition"] for row in parts} == {overall["condition"]}
        assert sum(row["top1_accuracy"] * row["n"] for row in parts) / 10 == pytest.approx(overall["top1_accuracy"])
    assert run("show", "a.safetensors", model=False)[1]["kind"] == "AnalogyEvaluation"
    (tmp_path / "mine.jsonl").write_text('{"a":"hot","b":"cold","c":"big","d":"small"}\n')
    code, mine, _ = run("analogy", "--library", built, "--file", "mine.jsonl")
    assert (code, mine["analogies"]) == (0, 1)
    assert mine["results"][0]["mc_accuracy"] is None
    code, printed, _ = run("analogy", "--library", built, "--task", "antonym", "--max-per-relation", "2", as_json=False)
    assert code == 0
    assert "top-1 by relation, and composite less one_shot" in printed
    assert next(line for line in printed.splitlines() if line.startswith("antonym ")).split()[1] == "2"
    assert "less one_shot, analogy by analogy: 2 analogies" in printed


def test_bad_requests(run, built, tmp_path):
    (tmp_path / "empty.jsonl").write_text('{"a":"hot","b":"cold","c":"big","d":""}\n')
    for arguments, message in [
        (["compose", "hot-cold", "--library", built], "give pairs as A:B"),
        (["compose", "hot:cold", "--library", "nowhere"], "it has no library.json"),
        (["analogy", "--library", built, "--file", "empty.jsonl"], "empty.jsonl, line 1: analogy hot:cold::big"),
        (["analogy", "--library", built, "--weight-map", f"{built}/antonym.safetensors"], "it holds a FunctionVector"),
        (["library", "fit", built, "--form", "round"], 'Choose from: "temperature", "diagonal", "full"'),
        (["library", "show", built, "nothing"], "the library has none"),
        (["library", "build", *TASKS, *FEW, "--layer", "2", "--out", "lib"], "choose another folder"),
        (["library", "build", "--group", "cooking"], "there are none; known are"),
    ]:
        code, out, err = run(*arguments, as_json=False)
        assert code == 2, (arguments, err)
        assert err.startswith("lens-fv: ") or "library.json" in err
        assert message in err
        assert "Traceback" not in out + err
