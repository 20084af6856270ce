"""The study of relations: run to the end on a tiny model, stopped and gone on with."""

from dataclasses import replace

import pytest
from helpers import written

from lens_fv.errors import LensFVError
from lens_fv.evaluation import evaluate
from lens_fv.model import load_model
from lens_fv.studies.relational import STUDY, RelationalSettings
from lens_fv.studies.relational.settings import SUBSET
from lens_fv.studies.rows import Row
from lens_fv.studies.study import Results
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
    subset=NAMES[:2],
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
    n_map_analogies=2,
    n_test_analogies=2,
)


@pytest.fixture(scope="module")
def model(model_folder):
    return load_model(str(model_folder))


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    STUDY(model, folder, replace(SMALL, seeds=(0,))).run(["completion"])
    study = STUDY(model, folder, SMALL)
    study.run()
    return study


@pytest.fixture(scope="module")
def rows(run):
    return Results(run.folder, "tiny").rows


def test_every_part_leaves_its_rows(run, rows):
    n, seeds, few = len(NAMES), 2, 2
    jobs = {"completion": n * seeds, "transfer": n, "analogies": 16, "decoding": 8, "tuning": 2 + 2 + 3, "norms": few}
    jobs |= {"baselines": few, "lists": 6, "alignment": seeds}
    assert {part: len(own.groupby(["seed", "job"])) for part, own in rows.frame.groupby("part")} == jobs
    assert {*jobs} == {*STUDY.parts} and rows.frame["value"].notna().all()
    assert len(run.library("extracted", 1)) == n


def test_what_everything_is_varied_around_is_tuned_once(run):
    pairs, start = ({row[:1] + row[2:] for row in run.rows.rows("tuning", job)} for job in ("pairs/3", "start/zero"))
    assert pairs == start
    assert ("antonym", "vector_norm", run.library("tuned", 0)["antonym"].norm, 3) in pairs


def test_completion_is_what_evaluate_says(run, model):
    vectors = {"tuned": run.library("tuned", 1)["antonym"]}
    tuned = evaluate(model, load_task("antonym"), vectors, n_shots=2, max_items=3, seed=1)["tuned"]
    rows = run.rows.rows("completion", "antonym", seed=1)
    assert list(dict.fromkeys(row.condition for row in rows))[:3] == ["none", "k_shot", "extracted"]
    measured = {row.measure: row.value for row in rows if row.condition == "tuned"}
    assert (measured["top1_accuracy"], measured["logprob_per_answer_nats"]) == (tuned.top1.mean, tuned.logprob_per_answer.mean)
    assert Row("antonym", "tuned", "top3_accuracy", tuned.top3.mean, 3) in rows


def test_transfer_and_analogies_have_a_value_for_each_item(rows):
    transfer = rows.where(part="transfer", measure="logprob_gain_nats").frame
    assert (transfer.groupby("unit")["item"].max() == len(NAMES) - 1).all()
    solved = rows.where(part="analogies", condition="composite", measure="logprob_per_token_nats").frame
    held_out = solved[solved["job"].str.startswith("relations/")]
    assert held_out.groupby("unit").size().to_dict() == dict.fromkeys(NAMES, SMALL.n_test_analogies)
    variants = rows.frame.loc[rows.frame["job"].str.startswith("variants/"), "condition"].unique()
    assert {"composite, 1 vector", "few_shot, 8 pairs", "rescaled, extracted vectors"} <= {*variants} and len(variants) == 17


def test_going_on_makes_nothing_twice_and_refuses_other_settings(run, model):
    before = written(run.folder)
    STUDY(model, run.folder, SMALL).run()
    after = written(run.folder)
    changed = {path.name for path in after if after[path] != before.get(path)}
    assert {name for name in changed if not name.endswith(".lock")} <= {"study.json"}
    with pytest.raises(LensFVError, match=r"run with pairs \d \(requested: 4\); choose another folder"):
        STUDY(model, run.folder, replace(SMALL, pairs=4))
    with pytest.raises(LensFVError, match=r"run with seeds .* \(requested: \[1, 0\]\)"):
        STUDY(model, run.folder, replace(SMALL, seeds=(1, 0)))
    with pytest.raises(LensFVError, match="part nothing of the study: there are completion"):
        run.run(["nothing"])


def test_settings_name_relations_that_exist():
    quick = RelationalSettings.quick()
    assert quick.relations == SUBSET and {*quick.subset} < {*SUBSET} and quick.seeds == (0,)
    with pytest.raises(LensFVError, match="antonyms"):
        RelationalSettings(relations=("antonyms",))
