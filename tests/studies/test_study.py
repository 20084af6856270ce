"""What all studies stand on: jobs that are resumed and claimed, rows, tables and contrasts, and the page."""

import json
import multiprocessing
import shlex
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, get_args

import numpy as np
import pandas as pd
import pytest

from lens_fv.cli.reproduce import StudyName
from lens_fv.core.statistics import Estimate, estimate
from lens_fv.errors import LensFVError
from lens_fv.studies.markdown import estimates_table, signed
from lens_fv.studies.render import command
from lens_fv.studies.reproduce import study_settings
from lens_fv.studies.rows import Job, Row, RowStore
from lens_fv.studies.study import STUDIES, Results, Study, load_study, run_folders
from lens_fv.studies.tables import Contrast, View, verdict

RNG = np.random.default_rng(0)
VALUES = RNG.uniform(size=(3, 4, 2, 5))
"""Seeds, units, conditions, items."""
CONDITIONS = ("tuned", "extracted")


def jobs(calls: list[str] | None = None):
    def rows(seed: int, unit: int) -> list[Row]:
        if calls is not None:
            calls.append(f"{seed}/{unit}")
        return [Row(f"u{unit}", c, "accuracy", VALUES[seed, unit, i].tolist(), 5) for i, c in enumerate(CONDITIONS)]

    return [Job("main", f"u{unit}", lambda s=seed, u=unit: rows(s, u), seed) for seed in range(3) for unit in range(4)]


@pytest.fixture
def store(tmp_path):
    store = RowStore(tmp_path / "rows.jsonl", "toy", "abc")
    for job in jobs():
        assert store.compute(job)
    return store


def test_a_job_is_run_once_and_read_as_it_was_written(store, tmp_path):
    again, calls = RowStore(tmp_path / "rows.jsonl", "toy", "abc"), []
    assert all(again.compute(job) for job in jobs(calls)) and not calls
    pd.testing.assert_frame_equal(again.frame(), store.frame())
    rows = store.frame()
    assert len(rows) == VALUES.size and rows["value"].tolist() == pytest.approx(np.moveaxis(VALUES, 2, 2).ravel().tolist())
    assert again.rows("main", "u1", seed=2)[0].value == VALUES[2, 1, 0].tolist()


def test_what_a_killed_worker_left_of_a_line_is_run_again(store, tmp_path):
    path = tmp_path / "rows.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    calls: list[str] = []
    again = RowStore(path, "toy", "abc")
    assert all([again.compute(job) for job in jobs(calls)]) and calls == ["2/3"]
    assert path.read_bytes() == whole


@pytest.mark.parametrize("line", ["{}", "[1]", "{", '{"model": 1}'])
def test_a_damaged_line_is_refused(store, tmp_path, line):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(line.encode() + b"\n" + path.read_bytes())
    with pytest.raises(LensFVError, match="delete the line"):
        RowStore(path, "toy", "abc")


def test_rows_of_other_settings_are_refused(store, tmp_path):
    with pytest.raises(LensFVError, match="other settings"):
        RowStore(tmp_path / "rows.jsonl", "toy", "abd")


def test_rows_of_another_model_are_refused(store, tmp_path):
    with pytest.raises(LensFVError, match="was run with the model toy"):
        RowStore(tmp_path / "rows.jsonl", "other", "abc")


def test_bytes_that_are_no_text_are_refused_and_odd_names_are_not(tmp_path):
    path = tmp_path / "rows.jsonl"
    odd = "a\u2028b\x85c"  # characters that end a line elsewhere
    assert RowStore(path, "toy", "abc").compute(Job("main", odd, lambda: [Row(odd, "x", "y", 1.0)]))
    assert RowStore(path, "toy", "abc").rows("main", odd)[0].unit == odd
    path.write_bytes(path.read_bytes().replace(b'"x"', b'"\xff"'))
    with pytest.raises(LensFVError, match="not UTF-8 text; delete the line"):
        RowStore(path, "toy", "abc")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [0.5, float("-inf")]])
def test_a_value_that_is_not_finite_is_refused(tmp_path, value):
    store = RowStore(tmp_path / "rows.jsonl", "toy", "abc")
    job = Job("main", "one", lambda: [Row("u", "tuned", "accuracy", value)])
    with pytest.raises(LensFVError, match=r"main/one has a value that is not finite \(u, tuned, accuracy\)"):
        store.compute(job)
    assert job not in store and not (tmp_path / "rows.jsonl").exists()
    store.compute(Job("main", "one", lambda: [Row("u", "tuned", "accuracy", 0.5)]))
    path = tmp_path / "rows.jsonl"
    path.write_text(path.read_text().replace("0.5", "1e999"))
    with pytest.raises(LensFVError, match="main/one has a value that is not finite"):
        RowStore(path, "toy", "abc")


def test_a_contrast_refuses_pairs_that_are_not_unique(store):
    rows = store.frame()
    with pytest.raises(pd.errors.MergeError):
        Contrast("tuned", "extracted", "accuracy", "main").estimate(View(pd.concat([rows, rows])))


def _claim(path, ready, done):
    def rows():
        ready.set()
        done.wait(30)
        return [Row("u", "theirs", "x", 1.0)]

    RowStore(path, "toy", "abc").compute(Job("main", "one", rows))


def test_a_job_that_another_worker_has_claimed_is_left_to_it(tmp_path):
    context = multiprocessing.get_context("spawn")
    path, ready, done = tmp_path / "rows.jsonl", context.Event(), context.Event()
    worker = context.Process(target=_claim, args=(path, ready, done))
    worker.start()
    assert ready.wait(60)
    store, mine = RowStore(path, "toy", "abc"), Job("main", "one", lambda: [Row("u", "mine", "x", 1.0)])
    assert not store.compute(mine)
    assert store.compute(Job("main", "two", lambda: [Row("u", "mine", "x", 2.0)]))
    done.set()
    assert store.compute(mine, wait=True)
    worker.join(30)
    assert [row.condition for row in store.rows("main", "one")] == ["theirs"]


WORKER = """
import sys
from pathlib import Path
from lens_fv.studies.rows import Job, Row, RowStore
store, worker = RowStore(Path(sys.argv[1]), "toy", "abc"), sys.argv[2]
for i in range(20):
    for part in (worker, "both"):
        store.compute(Job(part, str(i), lambda: [Row("u", worker, "x", 1.0)]), wait=True)
"""


def test_workers_lose_nothing_of_each_other(tmp_path):
    path = tmp_path / "rows.jsonl"
    workers = [subprocess.Popen([sys.executable, "-c", WORKER, str(path), name]) for name in ("one", "two")]
    assert [worker.wait(300) for worker in workers] == [0, 0]
    assert path.read_text().count("\n") == 60
    lines = RowStore(path, "toy", "abc").lines()
    assert {(line.part, line.job) for line in lines} == {(part, str(i)) for part in ("one", "two", "both") for i in range(20)}
    assert all(line.rows[0][1] == line.part for line in lines if line.part != "both")


def test_a_job_that_another_store_has_added_is_not_run_again(tmp_path):
    one, other = (RowStore(tmp_path / "rows.jsonl", "toy", "abc") for _ in range(2))
    assert one.compute(Job("main", "one", lambda: [Row("u", "first", "x", 1.0)]))
    assert other.compute(Job("main", "one", lambda: [Row("u", "second", "x", 2.0)]))
    assert [row.condition for row in other.rows("main", "one")] == ["first"]


def test_estimates_are_means_over_units_of_means_over_seeds_and_items(store):
    rows = View(store.frame())
    by_hand = VALUES[:, :, 0].mean((0, 2))
    assert rows.where(condition="tuned").mean() == pytest.approx(estimate(list(by_hand)))
    table = rows.estimates()
    assert list(table) == list(CONDITIONS) and table["tuned"]["accuracy"] == rows.where(condition=["tuned"]).mean()
    curve = rows.where(seed=1).curve()
    assert curve["extracted"][3.0].mean == pytest.approx(VALUES[1, :, 1, 3].mean())
    assert rows.where(condition="none").mean() is None


def test_contrasts_pair_what_both_conditions_have(store):
    rows = store.frame()
    some = rows[~((rows["condition"] == "extracted") & (rows["seed"] == 2) & (rows["unit"] == "u0"))]
    contrast = Contrast("tuned", "extracted", "accuracy", "main")
    differences = (VALUES[:, :, 0] - VALUES[:, :, 1]).mean(2)
    by_hand = [differences[:2, 0].mean(), *differences[:, 1:].mean(0)]
    assert contrast.estimate(View(some)) == pytest.approx(estimate(list(by_hand)))
    assert View(some).differences(["tuned - extracted"], "unit")["tuned - extracted"]["u0"].mean == pytest.approx(by_hand[0])
    assert Contrast("tuned", "random", "accuracy", "main").estimate(View(rows)) is None


@pytest.mark.parametrize(
    ("values", "says"),
    [([1.0, 2.0], "holds"), ([-1.0, 2.0], "does not show"), ([-1.0, -2.0], "the opposite holds"), ([1.0], "does not show")],
)
def test_a_verdict_needs_the_whole_interval(values, says):
    assert verdict(estimate(values)) == says


def test_settings_are_set_by_name():
    study = load_study("instruction")
    usual = study_settings(study, {})
    assert usual == study.settings_type()
    changed = study_settings(study, {"seeds": "3,4", "max_items": "5", "counterparts": "none"}, quick=True)
    assert (changed.seeds, changed.max_items, changed.counterparts) == ((3, 4), 5, ("none",))
    assert changed.n_clean == study.settings_type.quick().n_clean != usual.n_clean
    assert study_settings(study, {"sequences": '{"a": ["antonym"]}'}).sequences == {"a": ("antonym",)}
    wrong = {"seed": ("1", "did you mean 'seeds'"), "max_items": ("x", "valid integer"), "counterparts": ("no", "'none'")}
    for name, (text, says) in wrong.items():
        with pytest.raises(LensFVError, match=says):
            study_settings(study, {name: text})
    with pytest.raises(LensFVError, match="did you mean 'instruction'"):
        load_study("instructions")


def test_models_have_folders_of_their_own(tmp_path):
    assert run_folders(["a", "b/c"], tmp_path) == {"a": tmp_path / "a", "b/c": tmp_path / "c"}
    with pytest.raises(LensFVError, match="share a folder"):
        run_folders(["a/c", "b/c"], tmp_path)
    with pytest.raises(LensFVError, match="no study is there"):
        run_folders([], tmp_path)


def test_estimates_are_formatted_by_what_they_are():
    estimates = {
        "random": {"accuracy": Estimate(0.25, 0.125, 0.5, 3), "gain (points)": Estimate(-0.5, -0.75, 0.25, 3)},
        "tuned - random": {"accuracy": Estimate(0.5, 0.5, 0.5, 1)},
        "tuned": {"accuracy": Estimate(0.75, 0.5, 1.0, 4)},
    }
    words = {"tuned": "tuned vector", "random": "random vector"}
    lines = estimates_table("condition", estimates, words=words, counts="relations").splitlines()
    assert [[cell.strip() for cell in line.strip("|").split("|")] for line in lines] == [
        ["condition", "accuracy", "gain (points)"],
        ["---", "---:", "---:"],
        ["relations", "1–4", "3"],
        ["tuned vector", "0.75 [0.50, 1.00]", "–"],
        ["random vector", "0.25 [0.12, 0.50]", "-50 [-75, +25]"],
        ["tuned vector - random vector", "+0.50", "–"],
    ]
    assert "+0.75 [+0.50, +1.00]" in estimates_table("", estimates, form=signed)


def test_the_command_line_knows_every_study():
    assert set(get_args(StudyName)) == set(STUDIES)


def test_the_command_on_a_page_sets_what_it_says(tmp_path):
    study = load_study("instruction")
    settings = replace(study.settings_type(), sequences={"mine": ("antonym", "a b")}, mixture=None, seeds=(3, 4), scales=(0.5,))
    (tmp_path / "study.json").write_text(json.dumps({"model": "toy", "revision": None, **asdict(settings)}))
    words = shlex.split(command(study, Results(tmp_path)))
    changes = dict(words[i + 1].split("=", 1) for i, word in enumerate(words) if word == "--set")
    assert study_settings(study, changes) == settings


class Once(Study[Any]):
    """A study whose only job says nothing."""

    name = "once"
    parts: ClassVar = {"main": lambda _: [Job("main", "one", lambda: [Row("u", "c", "m", 1.0)])]}


@dataclass(frozen=True)
class OnceSettings:
    seeds: tuple[int, ...] = (0,)


def test_a_resumed_run_keeps_the_versions_that_it_began_with(tiny_model, tmp_path, monkeypatch):
    model = tiny_model("llama")
    Once(model, tmp_path, OnceSettings()).run()
    begun = Results(tmp_path).run["versions"]
    monkeypatch.setattr("lens_fv.studies.study.versions", lambda: {"torch": "0"})
    Once(model, tmp_path, OnceSettings((0, 1))).run()
    assert Results(tmp_path).run["versions"] == begun != {"torch": "0"}
    assert Results(tmp_path).settings["seeds"] == [0, 1]
