"""The study of instructed tasks from end to end, on a model that follows them by a known head."""

import json
from dataclasses import replace

import pytest
from planted import HEAD, planted_tasks, planted_weights

from lens_fv.errors import LensFVError
from lens_fv.finetuning import FinetuneConfig
from lens_fv.studies.instruction.page.losses import lost_tasks
from lens_fv.studies.instruction.page.recorded import Recorded
from lens_fv.studies.instruction.page.report import write_instruction_report
from lens_fv.studies.instruction.run import run_instruction
from lens_fv.studies.instruction.settings import InstructionSettings
from lens_fv.vectors import InstructionVector

TRAIN = FinetuneConfig(n_examples=16, batch_size=4, n_checkpoints=2, learning_rate=3e-2, dropout=0.0)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    for task in planted_tasks():
        task.save(folder / f"{task.name}.json")
    files = [str(folder / f"task{k}.json") for k in range(3)]
    return InstructionSettings(
        sequences={"first": tuple(files[:2]), "second": (files[2],)},
        seeds=(0,),
        # so weak that the model stays what it is
        mixture=replace(TRAIN, mixed=True, n_examples=4, learning_rate=1e-6),
        training=TRAIN,
        n_heads=1,
        n_clean=4,
        n_trials=3,
        n_context=2,
        counterparts=("none", "real_text"),
    )


@pytest.fixture(scope="module")
def study(settings, tmp_path_factory):
    model = tmp_path_factory.mktemp("models") / "planted"
    planted_weights(model).save_pretrained(model)
    folder = tmp_path_factory.mktemp("work") / "planted"
    run_instruction(str(model), folder, settings, parts=["start", "sequences"])
    run_instruction(str(model), folder, replace(settings, seeds=(0, 1)))
    return str(model), folder


def test_everything_is_recorded(study, settings):
    _, folder = study
    counts = {part: len(json.loads((folder / f"{part}.json").read_text())) for part in ("start", "injection", "counterparts")}
    assert counts == {"start": 2 * 2 * 3, "injection": 2 * 2 * 3, "counterparts": 2 * 3}
    start = json.loads((folder / "start.json").read_text())
    assert all(all(record["right"]) and record["majority"] < 0.5 for record in start.values())
    run = Recorded("planted", folder)
    assert [(each.sequence, each.seed) for each in run.followed] == [("first", 0), ("first", 1), ("second", 0), ("second", 1)]
    for each in run.followed:
        assert each.path.tasks == ("task0", "task1", "task2")
        assert each.path.accuracy[0].eq(1).all()
        assert InstructionVector.load(folder / f"vectors-{each.seed}" / "none" / "task0.safetensors").heads == (HEAD,)
    assert run.followed[0].metrics is not None


def test_a_vector_does_what_the_instruction_does(study):
    _, folder = study
    for key, record in json.loads((folder / "injection.json").read_text()).items():
        found = {result["condition"]: result["top1"] for result in record["results"]}
        assert found["instruction"] == 1, key
        assert found["none"] < 0.3


def test_it_is_not_made_twice(study, settings):
    model, folder = study
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file() and file.name != "study.json"}
    run_instruction(model, folder, replace(settings, seeds=(0, 1)))
    after = {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file() and file.name != "study.json"}
    assert after == before
    with pytest.raises(LensFVError, match=r"it was run with max_items \d+ \(asked: 3\); choose another folder"):
        run_instruction(model, folder, replace(settings, seeds=(0, 1), max_items=3))
    with pytest.raises(LensFVError, match="run part nothing of the study: there are start, sequences"):
        run_instruction(model, folder, parts=["nothing"])


def test_the_page_says_what_was_found(study, tmp_path):
    _, folder = study
    page = write_instruction_report({"planted": folder}, tmp_path)
    text, run = page.read_text(), Recorded("planted", folder)
    for heading in ("Something to forget", "Forgetting", "The claims", "Vectors instead of instructions", "ranked against"):
        assert heading in text
    lost = lost_tasks(run)
    assert lost
    assert f"{len(lost)} tasks of runs were lost" in text
    sheet = (tmp_path / "instruction" / "planted-verdicts.csv").read_text().splitlines()
    assert len(sheet) == 1 + 4 * 3
    assert sum("kept" not in line for line in sheet[1:]) == len(lost)
    with pytest.raises(LensFVError, match="there is no study in"):
        write_instruction_report({"planted": tmp_path}, tmp_path)


def test_a_model_that_follows_nothing_is_said(settings, model_folder, tmp_path):
    with pytest.raises(LensFVError, match=r"at the start it follows none of task0, task1, task2; choose other tasks"):
        run_instruction(str(model_folder), tmp_path, replace(settings, mixture=None))
