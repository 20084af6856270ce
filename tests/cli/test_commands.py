"""The command line, end to end, on a tiny model in a folder."""

import json
import os
import subprocess
import sys

import pytest
import torch

from lens_fv.cli.app import GROUPS, HEADINGS
from lens_fv.cli.command import Command, commands_of
from lens_fv.core.tables import table_rows
from lens_fv.evaluation import load_artefact
from lens_fv.studies.bench.subject import SHAPES
from lens_fv.tasks import list_tasks, load_task

QUICK = ["--n-shots", "2", "--n-clean", "3", "--n-trials", "2"]


def test_rank_extract_tune_evaluate_show(run, tmp_path):
    code, ranked, _ = run("rank", "--task", "toy.json", *QUICK)
    assert code == 0
    assert len(ranked["heads"]) == 12
    assert set(ranked["heads"][0]) == {"layer", "head", "effect", "ci_low", "ci_high", "n", "p_value"}
    effects = [h["effect"] for h in ranked["heads"]]
    assert effects == sorted(effects, reverse=True)

    code, extracted, _ = run(
        "extract", "--task", "toy.json", "--ranking", ranked["file"], "--n-heads", "3", "--out", "e.safetensors"
    )
    assert code == 0
    assert extracted["heads"] == [[h["layer"], h["head"]] for h in ranked["heads"][:3]]

    tune = ["--n-pairs", "8", "--steps", "5", "--layers", "1", "--n-shots", "2"]
    code, tuned, _ = run("tune", "--task", "toy.json", "--init", "e.safetensors", *tune)
    assert code == 0
    assert [r["condition"] for r in tuned["results"]] == ["none", "k_shot", "extracted", "tuned", "random"]
    columns = {"condition", "top1_accuracy", "top1_accuracy_ci_low", "exact_match", "n", "logprob_per_answer_nats"}
    assert columns <= set(tuned["results"][0])

    vectors = ["--vector", "e.safetensors", "--vector", tuned["file"], "--other", "e.safetensors"]
    code, result, _ = run("evaluate", "--task", "toy.json", *vectors, "--n-shots", "2", "--out", "all.safetensors")
    assert code == 0
    assert [r["condition"] for r in result["results"]] == ["none", "k_shot", "extracted", "tuned", "random", "other_relation"]
    assert result["results"][:4] == tuned["results"][:4]
    two = ["--max-items", "2", "--n-shots", "2"]
    assert [r["n"] for r in run("evaluate", "--task", "toy.json", "--vector", "e.safetensors", *two)[1]["results"]] == [2] * 4
    assert [r["n"] for r in run("tune", "--task", "toy.json", *tune, "--max-items", "2")[1]["results"]] == [2] * 4
    assert result["queries"] == {"selection": "all"}
    code, _, err = run("evaluate", "--task", "toy.json", "--n-shots", "2", "--queries", "answered", as_json=False)
    assert (code, err.count("\n")) == (2, 1)
    assert "it answers none of 12 queries" in err

    for file in ("toy-ranking.safetensors", "e.safetensors", "toy-tuned.safetensors", "all.safetensors"):
        assert run("show", file)[0] == 0
        assert repr(load_artefact(tmp_path / file)).startswith(("HeadRanking", "FunctionVector", "Evaluation"))
    code, shown, _ = run("show", "e.safetensors")
    assert code == 0
    assert len(shown["decoded"]) == 10


def test_write(run, tmp_path):
    assert run("extract", "--task", "toy.json", *QUICK, "--n-heads", "3", "--layer", "1", "--out", "v.safetensors")[0] == 0
    few = [
        "--vector",
        "v.safetensors",
        "--n-shots",
        "1",
        "--max-items",
        "2",
        "--max-new-tokens",
        "4",
        "--instruction",
        "Say it.",
    ]
    code, result, _ = run("write", "--task", "toy.json", *few, "--out", "w.safetensors")
    assert code == 0
    assert [(r["condition"], r["n"]) for r in result["results"]] == [("none", 2), ("k_shot", 2), ("extracted", 2)]
    loaded = load_artefact(tmp_path / result["file"])
    assert [tuple(item["outputs"].values()) for item in result["texts"]] == list(loaded.texts)
    assert [item["input"] for item in result["texts"]] == list(loaded.inputs)
    assert loaded.provenance.options == {"n_shots": 1, "max_new_tokens": 4, "instruction": "Say it."}
    code, printed, _ = run("write", "--task", "toy.json", *few, as_json=False)
    assert (code, "ROUGE-L" in printed, "extracted" in printed) == (0, True, True)
    code, result, _ = run("write", "--task", "toy.json", *few, "--vector", "v.safetensors")
    assert [r["condition"] for r in result["results"]] == ["none", "k_shot", "extracted 1", "extracted 2"]


def test_the_task_is_that_of_the_ranking_or_vector(run, tmp_path):
    assert run("rank", "--task", "antonym", *QUICK, "--out", "antonym.safetensors")[0] == 0
    small = ("--n-heads", "2", "--layer", "1")
    code, result, _ = run("extract", "--ranking", "antonym.safetensors", *small, "--out", "v.safetensors")
    assert (code, result["task"]) == (0, "antonym")
    assert run("evaluate", "--vector", "v.safetensors", "--n-shots", "1", "--max-items", "2")[1]["task"] == "antonym"
    code, _, message = run("extract", "--ranking", "antonym.safetensors", "--task", "toy.json", *small)
    assert (code, message.count("\n")) == (2, 1)
    assert "it was made on antonym, with other pairs" in message
    assert run("rank", "--task", "toy.json", *QUICK, "--out", "toy.safetensors")[0] == 0
    code, _, message = run("extract", "--ranking", "toy.safetensors", *small)
    assert (code, "find the task of toy" in message) == (2, True)
    (tmp_path / "antonym.json").write_text((tmp_path / "toy.json").read_text())  # not the built-in relation of this name
    assert run("rank", "--task", "antonym.json", *QUICK, "--out", "own.safetensors")[0] == 0
    assert (
        run("extract", "--ranking", "own.safetensors", "--task", "antonym.json", *small, "--out", "own-v.safetensors")[0] == 0
    )
    code, _, message = run("evaluate", "--vector", "own-v.safetensors")
    assert (code, "it was made on antonym, with other pairs" in message) == (2, True)


def test_what_another_program_reads_has_no_broken_lines(run):
    printed = run("tasks", model=False, as_json=False)[1].splitlines()
    assert [line.split()[0] for line in printed[1:]] == [line.split()[0] for line in printed[1:] if len(line.split()) > 5]
    assert len(printed) == 1 + len(list_tasks())


def test_same_seed_same_numbers(run):
    one, two, other = (run("rank", "--task", "toy.json", *QUICK, "--seed", s)[1] for s in ("1", "1", "2"))
    assert one == two
    assert one["heads"] != other["heads"]


def test_verify_and_bench(run, model_folder):
    code, result, _ = run("verify", str(model_folder), model=False)
    assert code == 0
    assert result["passed"]
    code, bench, _ = run("bench", "engine", "--task", "toy.json", "--n-shots", "2", "--sample", "4", "--repeats", "1")
    assert code == 0
    assert {"speedup_vs_loop", "plain_forwards", "max_abs_error", "floor_fraction", "peak_memory_ratio"} <= set(bench)
    assert bench["max_abs_error"] < 1e-5
    assert bench["backend"] == "rows"


def test_bench_sweep_tune_memory(run, tmp_path):
    code, sweep, _ = run("bench", "sweep", "--task", "toy.json", "--n-shots", "2", "--sample", "4", "--repeats", "1")
    assert code == 0
    assert (sweep["edits"], sweep["loop_sample"]) == (15, 4)  # 3 layers x 5 scales
    assert sweep["max_abs_error"] < 1e-5
    scales = ("--scales", "1", "--scales", "2")
    code, sweep, _ = run("bench", "sweep", "--task", "none", "--n-tokens", "5", *scales, "--sample", "1", "--repeats", "1")
    assert (code, sweep["edits"], sweep["prompt_tokens"]) == (0, 6, 5)
    code, basis, _ = run("bench", "compose", "--task", "toy.json", "--vectors", "7", "--sample", "4", "--repeats", "1")
    assert code == 0
    assert (basis["edits"], basis["loop_sample"]) == (7, 4)
    assert basis["max_abs_error"] < 1e-5
    code, tune, _ = run("bench", "tune", "--task", "toy.json", "--n-pairs", "4", "--steps", "5", "--out", "tune.json")
    assert code == 0
    assert tune["relative_difference"] < 1e-3
    several = run("bench", "tune", "--task", "toy.json", "--n-pairs", "4", "--steps", "5", "--vectors", "3")[1]
    assert several["vectors"] == 3
    assert several["relative_difference"] < 1e-3
    assert json.loads((tmp_path / "tune.json").read_text()) == tune
    code, memory, _ = run("bench", "memory", "--task", "toy.json", "--n-shots", "1", "--n-shots", "3", "--repeats", "1")
    assert code == 0
    assert [g["prompt_tokens"] for g in memory["growth"]] == sorted(g["prompt_tokens"] for g in memory["growth"])
    assert all(g["planned_bytes"] > 0 for g in memory["growth"])


def test_bench_guided(run):
    few = ("--rows", "2", "--tokens", "8", "--repeats", "1")
    code, result, _ = run("bench", "guided", *few)
    assert code == 0
    assert [step["method"] for step in result["steps"]] == ["lora", "iv", "fv", "kl", "swap", "swap-kl"]
    assert result["steps"][0]["time_ratio"] == result["steps"][0]["memory_ratio"] == 1.0
    others = ("full", "ewc", "o-lora", "lwf", "l2", "swap-heads")
    _, result, _ = run("bench", "guided", *few, *(word for name in others for word in ("--methods", name)))
    assert {step["method"] for step in result["steps"]} == {"lora", *others}
    code, _, error = run("bench", "guided", "--methods", "none", as_json=False)
    assert (code, "choose from iv, fv, kl, l2, lwf" in error) == (2, True)


def test_bench_needs_no_network(run, monkeypatch):
    """Random weights of a known shape, random tokens."""
    monkeypatch.setitem(SHAPES, "small", SHAPES["smollm2-135m"] | {"num_hidden_layers": 4, "vocab_size": 500})
    code, result, _ = run(
        "bench", "engine", "--model", "random:small", "--n-tokens", "6", "--sample", "1", "--repeats", "1", model=False
    )
    assert code == 0
    assert (result["edits"], result["prompt_tokens"]) == (36, 6)
    assert result["max_abs_error"] < 1e-5
    code, _, message = run("bench", "engine", "--model", "random:nosuch", model=False)
    assert code == 2
    assert "known shapes are smollm2-135m" in message


def test_sweep_classes_and_attributions(run, tmp_path):
    assert run("extract", "--task", "toy.json", *QUICK, "--n-heads", "3", "--out", "v.safetensors")[0] == 0
    code, swept, _ = run(
        "sweep",
        "v.safetensors",
        "--task",
        "toy.json",
        "--layers",
        "0",
        "--layers",
        "2",
        "--scales",
        "1.5",
        "--out",
        "s.safetensors",
    )
    assert code == 0
    assert [(cell["layer"], cell["scale"]) for cell in swept["cells"]] == [(0, 1.5), (2, 1.5)]
    assert swept["best"] in swept["cells"]
    code, result, _ = run(
        "classes", "--task", "toy.json", *QUICK, "--classes", "label", "--classes", "query_predictive", "--out", "c.safetensors"
    )
    assert code == 0
    assert result["classes"] == ["label", "query_predictive"]
    assert len(result["effects"]) == 2 * 12
    assert run("rank", "--task", "toy.json", *QUICK, "--out", "r.safetensors")[0] == 0
    code, compared, _ = run("attributions", "r.safetensors", "--task", "toy.json", "--out", "a.safetensors")
    assert code == 0
    assert [row["score"] for row in compared["scores"]] == ["attribution", "direct"]
    assert all(-1 <= row["spearman"]["ci_low"] <= row["spearman"]["ci_high"] <= 1 for row in compared["scores"])
    for name in ("s", "c", "a"):
        assert run("show", f"{name}.safetensors", model=False)[0] == 0


def test_compare(run, tmp_path):
    few = ["--n-pairs", "8", "--steps", "5", "--n-heads", "3", "--max-items", "4"]
    kinds = ["--baselines", "extracted", "--baselines", "soft_prompt"]
    code, result, _ = run("compare", "--task", "toy.json", *QUICK, *few, *kinds, "--out", "k.safetensors")
    assert code == 0
    assert [r["condition"] for r in result["results"]] == ["none", "k_shot", "extracted", "soft_prompt", "random"]
    assert {r["n"] for r in result["results"]} == {4}
    assert result["queries"] == {"selection": "all"}
    code, _, message = run("compare", "--task", "toy.json", *QUICK, *few, *kinds, "--queries", "answered", as_json=False)
    assert (code, message.count("\n")) == (2, 1)
    assert "it answers none of" in message
    assert table_rows(load_artefact(tmp_path / "k.safetensors").results) == result["results"]
    code, _, message = run("compare", "--task", "toy.json", "--baselines", "magic")
    assert code == 2
    assert 'Invalid value "magic" for --baselines. Choose from: "extracted"' in message


def test_rank_plans_and_keeps_to_a_budget(run, tmp_path):
    code, plan, _ = run("rank", "--task", "toy.json", *QUICK, "--plan")
    assert code == 0
    assert not (tmp_path / "toy-ranking.safetensors").exists()
    assert plan["run"]["rows"] == 13
    whole = run("rank", "--task", "toy.json", *QUICK)[1]
    mebibytes = (plan["run"]["fixed_bytes"] + 4 * plan["run"]["row_bytes"]) / 2**20
    cut = run("rank", "--task", "toy.json", *QUICK, "--budget-mib", str(mebibytes), "--plan")[1]
    assert (cut["run"]["rows_per_pass"], cut["run"]["passes"]) == (4, 4)
    parts = run("rank", "--task", "toy.json", *QUICK, "--budget-mib", str(mebibytes))[1]
    effects = [{(h["layer"], h["head"]): h["effect"] for h in result["heads"]} for result in (whole, parts)]
    assert effects[0] == pytest.approx(effects[1], abs=1e-5)
    code, _, message = run("rank", "--task", "toy.json", *QUICK, "--budget-mib", "0.001")
    assert code == 2
    assert "memory budget" in message


def test_demo_writes_all_it_says(run, tmp_path):
    code, report, _ = run("demo", "--task", "toy.json", "--task", "lowercase", "--out", "report")
    assert code == 0
    out = tmp_path / "report"
    assert json.loads((out / "report.json").read_text()) == report
    html = (out / "report.html").read_text()
    assert "toy" in html
    assert "<script src=" not in html
    assert {p.name for p in (out / "artefacts" / "toy").iterdir()} == {
        f"{kind}.safetensors" for kind in ("ranking", "extracted", "tuned", "evaluation")
    }
    conditions = [r["condition"] for r in report["tasks"]["toy"]["results"]]
    assert conditions == ["none", "k_shot", "extracted", "tuned", "random", "other_relation"]
    assert (out / "figures" / "conditions.html").is_file()


def test_tasks_and_models_list(run):
    code, result, _ = run("tasks", model=False)
    assert code == 0
    assert len(result["tasks"]) >= 30
    assert run("tasks", "antonym", model=False)[1]["name"] == "antonym"
    code, models, _ = run("models", model=False)
    assert {m["name"] for m in models["models"]} >= {"smollm2-135m", "gemma-3-270m"}


def test_files_of_pairs_are_shown_as_they_are_understood(run, tmp_path):
    """What is written of one is a file of that task, so that every command can take it."""
    (tmp_path / "mine.csv").write_text("word,answer,source\nhot,cold/cool,WordNet\nbig,small,mine\n")
    code, _, err = run("tasks", "mine.csv", model=False)
    assert code == 2
    assert "mine.csv, line 1: the input can be word or source; say which with input_column= (on the command line:" in err
    columns = ["--input-column", "word", "--output-column", "answer"]
    code, _, err = run("tasks", "mine.csv", *columns, model=False)
    assert code == 2
    assert "'cold/cool' can be one answer or several" in err
    code, result, _ = run("tasks", "mine.csv", *columns, "--alternatives", "/", "--out", "mine.json", model=False)
    assert (code, result["pairs"][0]) == (0, {"input": "hot", "output": ["cold", "cool"]})
    assert load_task(tmp_path / "mine.json").pairs[0].outputs == ("cold", "cool")
    assert run("tasks", "antonym", "--out", "antonym.json", model=False)[0] == 0
    assert load_task(tmp_path / "antonym.json") == load_task("antonym")
    (tmp_path / "mine.csv").unlink()
    assert [row["name"] for row in run("tasks", ".", model=False)[1]["tasks"]] == ["mine", "toy", "antonym"]
    code, _, err = run("tasks", ".", *columns, model=False)
    assert (code, "these options are for one file of pairs" in err) == (2, True)


def bad_requests(folder):
    """What users get wrong, and what they are told."""
    (folder / "empty.json").write_text("")
    (folder / "no-output.json").write_text('[{"input": "a", "output": "b"},\n {"input": "c"}]')
    (folder / "one.json").write_text('[{"input": "a", "output": "b"}]')
    (folder / "cut.safetensors").write_bytes(b"\x10\x00\x00")
    long = "word " * 200
    (folder / "long.json").write_text(json.dumps([{"input": f"{long}{i}", "output": str(i)} for i in range(30)]))
    return [
        (["rank", "--task", "nosuch"], "unknown task 'nosuch'"),
        (["rank", "--task", "empty.json"], "empty.json"),
        (["rank", "--task", "no-output.json"], "no-output.json"),
        (["rank", "--task", "one.json", "--n-shots", "10"], "1 pair"),
        (["rank", "--task", "long.json", "--n-shots", "2"], "reads 256 at most"),
        (["show", "cut.safetensors"], "not a complete safetensors file"),
        (["evaluate", "--task", "toy.json", "--vector", "missing.safetensors"], "no such file"),
        (["rank", "--task", "toy.json", "--device", "abacus"], "abacus"),
        (["rank", "--task", "toy.json", "--dtype", "float3"], "float3"),
        (["extract", "--task", "toy.json", *QUICK, "--n-heads", "99"], "99 heads"),
        (["tune", "--task", "toy.json", "--n-pairs", "500"], "500"),
    ]


def test_the_precision_of_products_is_set_and_recorded(run, tmp_path):
    try:
        assert (
            run("--matmul", "medium", "tune", "--task", "toy.json", "--n-pairs", "8", "--steps", "2", "--n-shots", "2")[0] == 0
        )
        assert torch.get_float32_matmul_precision() == "medium"
        assert load_artefact(tmp_path / "toy-tuned.safetensors").provenance.versions["matmul"] == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    code, _, err = run("--matmul", "fastest", "tasks", model=False, as_json=False)
    assert (code, '"highest", "high", "medium"' in err) == (2, True)


def test_bad_requests_are_one_clear_line_and_exit_code_2(run, tmp_path):
    for arguments, message in bad_requests(tmp_path):
        code, out, err = run(*arguments, as_json=False)
        assert code == 2, arguments
        assert err.startswith("lens-fv: "), err
        assert err.count("\n") == 1, err
        assert message in err
        assert "Traceback" not in out + err


def test_unknown_and_damaged_models(run, model_folder, tmp_path):
    code, _, err = run("verify", "no-such-model-anywhere", model=False, as_json=False)
    assert (code, err.count("\n")) == (2, 1)
    assert "smollm2-135m" in err
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in model_folder.iterdir():
        content = file.read_bytes()
        (broken / file.name).write_bytes(content[:1000] if file.suffix == ".safetensors" else content)
    code, _, err = run("verify", str(broken), model=False, as_json=False)
    assert (code, err.count("\n")) == (2, 1)


def test_a_vector_of_another_model_is_refused(run, model_folder, tmp_path):
    tune = ["--n-pairs", "8", "--steps", "2", "--layers", "1", "--n-shots", "2"]
    assert run("tune", "--task", "toy.json", *tune)[0] == 0
    other = model_folder.with_name("other")
    if not other.exists():
        other.mkdir()
        for file in model_folder.iterdir():
            (other / file.name).write_bytes(file.read_bytes())
    arguments = ["evaluate", "--task", "toy.json", "--vector", "toy-tuned.safetensors", "--n-shots", "2", "--model", str(other)]
    code, _, err = run(*arguments, model=False, as_json=False)
    assert (code, err.count("\n")) == (2, 1)
    assert "made on model tiny" in err
    assert run(*arguments, "--force", model=False)[0] == 0


def commands() -> dict[str, Command]:
    """Every command by the words that call it."""
    alone = {command.name: command for modules in HEADINGS.values() for command in commands_of(*modules)}
    return alone | {f"{word} {command.name}": command for word, module in GROUPS.items() for command in commands_of(module)}


def test_every_command_has_the_shared_options():
    """Every command prints JSON and writes to --out; one that loads a model takes its place and precision, and says of each
    option what it is. A command without a model or a random draw takes neither (what does nothing is not accepted)."""
    every = commands()
    assert {"rank", "bench engine", "bench memory", "tasks", "sweep"} <= set(every)
    for name, command in every.items():
        assert {"json", "out"} <= set(command.options), name
        assert "rites" in command.help, name
        assert not [option.name for option in command.options.values() if not option.help], name
    without_model = {"models", "tasks", "library list", "library merge", "interpolate", "export"}
    assert {name for name, command in every.items() if "device" not in command.options} == without_model
    assert {name for name, command in every.items() if "dtype" not in command.options} == without_model - {"export"}
    without_seed = {"models", "tasks", "show", "compose", "interpolate", "export", "knowledge export"}
    without_seed |= {"library list", "library merge", "library show"}
    assert {name for name, command in every.items() if "seed" not in command.options} == without_seed


def test_as_a_process(run, tmp_path):
    """The installed command: exit codes and streams as a shell sees them, and a kind of file that it has not made itself."""

    def process(*arguments):
        command = [sys.executable, "-c", "from lens_fv.cli import main; main()", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=os.environ)

    result = process("tasks", "nosuch")
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    result = process("--version")
    assert result.returncode == 0
    assert result.stdout.startswith("0.")
    assert run("evaluate", "--task", "toy.json", "--n-shots", "2", "--out", "e.safetensors")[0] == 0
    result = process("show", "e.safetensors", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["kind"] == "Evaluation"
