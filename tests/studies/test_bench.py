"""Benchmarks alternate what they compare, and their results can be written and read."""

import torch

from lens_fv.studies.bench import BenchResult, open_subject
from lens_fv.studies.bench.clock import Clock
from lens_fv.studies.bench.subject import Subject, few_shot_tokens


def test_runs_of_all_methods_alternate_after_one_for_memory(tiny_model):
    calls: list[str] = []
    ticks: list[int] = []
    runs = {name: [lambda call=f"{name} {i}": calls.append(call) for i in (1, 2)] for name in ("fast", "plain")}
    costs = Clock(tiny_model("llama")).compare(runs, "plain", lambda: ticks.append(len(calls)))
    assert calls == ["fast 1", "fast 1", "plain 1", "plain 1", "fast 1", "plain 1", "fast 2", "plain 2"]
    assert ticks == [6, 8]
    assert list(costs) == ["fast", "plain"]
    assert (costs["plain"].time_ratio, costs["plain"].memory_ratio) == (1.0, 1.0)
    assert costs["fast"].time_ratio == costs["fast"].seconds / costs["plain"].seconds
    assert costs["fast"].memory_ratio == costs["fast"].bytes / costs["plain"].bytes


def test_the_floor_is_the_time_of_the_operations_at_the_measured_rate(tiny_model):
    clock = Clock(tiny_model("llama"))
    assert clock.floor(2 * clock.rate, 8.0) == {
        "floor_s": 2.0,
        "floor_fraction": 0.25,
        "product_gflops": clock.rate / 1e9,
    }


def test_results_are_read_as_they_were_written(tiny_model, tmp_path):
    subject = Subject(tiny_model("llama"))
    table = subject.result(edits=2, growth=[{"prompt_tokens": 10, "engine_s": 0.5}, {"prompt_tokens": 20, "engine_s": 0.75}])
    assert BenchResult.load(table.save(tmp_path / "result.json")) == table
    assert table.to_dataframe()["engine_s"].tolist() == [0.5, 0.75]
    assert table.summary()["edits"] == "2" and "growth" not in table.summary()
    (row,) = subject.result(engine_s=0.25).to_dataframe().to_dict("records")
    assert (row["engine_s"], row["dtype"], row["threads"]) == (0.25, "float32", torch.get_num_threads())


def test_without_a_task_prompts_are_random_tokens(model_folder):
    subject = open_subject(str(model_folder), None, n_shots=1)
    assert subject.task is None
    assert subject.prompt == few_shot_tokens(subject.model, None, 1, 0)
    assert (len(subject.prompt), len(open_subject(str(model_folder), None, n_tokens=5).prompt)) == (20, 5)
