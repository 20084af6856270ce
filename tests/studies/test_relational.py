"""The study of relations: run to the end on a tiny model, stopped and gone on with."""

import json
from dataclasses import replace

import pytest
from helpers import written

from lens_fv.errors import LensFVError
from lens_fv.evaluation import evaluate
from lens_fv.model import load_model
from lens_fv.studies.records import stored_row
from lens_fv.studies.relational.run import PARTS, run_relational
from lens_fv.studies.relational.settings import RelationalSettings
from lens_fv.tasks import load_task

NAMES = (
    "antonym",
    "capitalize",
    "country-capital",
    "english-french",
    "present-past",
    "singular-plural",
    "synonym",
    "word-length",
)
SMALL = RelationalSettings(
    relations=NAMES,
    few=NAMES[:2],
    seeds=(0, 1),
    n_heads=2,
    n_shots=2,
    n_clean=2,
    n_trials=1,
    pairs=3,
    steps=1,
    max_validation=4,
    max_items=3,
    n_pairs=(2, 3),
    depths=(0.0, 1.0),
    n_analogies=(2, 2),
)


@pytest.fixture(scope="module")
def model(model_folder):
    return load_model(str(model_folder))


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    run_relational(model, folder, replace(SMALL, seeds=(0,)), parts=["completion"])
    return run_relational(model, folder, SMALL), folder


def test_every_part_leaves_its_records(run):
    study, folder = run
    n, seeds, few = len(NAMES), 2, 2
    expected = {"completion": n * seeds, "transfer": n, "analogies": 16, "decoding": 8, "kinds": few}
    expected |= {"carrying": few, "tuning": 2 + 2 + 3, "alignment": seeds, "lists": 6}
    assert set(expected) == set(PARTS)
    for part, count in expected.items():
        assert len(json.loads((folder / f"{part}.json").read_text())) == count, part
    assert len(study.library("extracted", 1)) == n


def test_what_everything_is_varied_around_is_tuned_once(run):
    study, folder = run
    found = json.loads((folder / "tuning.json").read_text())
    assert found["0/pairs/3"]["antonym"] == found["0/start/zero"]["antonym"]
    assert found["0/pairs/3"]["antonym"]["norm"] == study.library("tuned", 0)["antonym"].norm


def test_completion_is_what_evaluate_says(run, model):
    study, folder = run
    rows = json.loads((folder / "completion.json").read_text())["1/antonym"]
    tuned = study.library("tuned", 1)["antonym"]
    alone = evaluate(model, load_task("antonym"), {"tuned": tuned}, n_shots=2, max_items=3, seed=1)
    assert json.loads(json.dumps(stored_row(alone["tuned"]))) == next(row for row in rows if row["condition"] == "tuned")
    assert [row["condition"] for row in rows][:3] == ["none", "k_shot", "extracted"]


def test_going_on_makes_nothing_twice_and_refuses_other_settings(run, model):
    _, folder = run
    before = written(folder)
    run_relational(model, folder, SMALL)
    after = written(folder)
    assert {path.name for path in before if after[path] != before[path]} <= {"study.json"}
    with pytest.raises(LensFVError, match=r"run with pairs \d \(asked: 4\); choose another folder"):
        run_relational(model, folder, replace(SMALL, pairs=4))
    with pytest.raises(LensFVError, match=r"run with seeds .* \(asked: \[1, 0\]\)"):
        run_relational(model, folder, replace(SMALL, seeds=(1, 0)))
    with pytest.raises(LensFVError, match="part nothing of the study: there are completion"):
        run_relational(model, folder, SMALL, parts=["nothing"])
