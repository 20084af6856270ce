"""The study of instructed tasks from end to end, on a model that follows them by a known head."""

import json
from dataclasses import replace

import pytest
from planted import HEAD, planted_tasks, planted_weights

from lens_fv.core.files import file_name
from lens_fv.dynamics import Trajectory, verdicts
from lens_fv.errors import LensFVError
from lens_fv.finetuning import FinetuneConfig
from lens_fv.model import load_model
from lens_fv.studies.instruction import CLAIMS, STUDY
from lens_fv.studies.instruction.settings import InstructionSettings
from lens_fv.studies.render import write_page
from lens_fv.studies.study import Results
from lens_fv.studies.tables import View
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
    path = tmp_path_factory.mktemp("models") / "planted"
    planted_weights(path).save_pretrained(path)
    folder, model = tmp_path_factory.mktemp("work") / "planted", load_model(path)
    STUDY(model, folder, settings, source=path).run(["start", "sequences"])
    STUDY(model, folder, replace(settings, seeds=(0, 1)), source=path).run()
    return model, path, folder


def headline(folder):
    run = Results(folder)
    return STUDY.headline(STUDY.view(run), run)


def test_every_part_leaves_its_rows(study):
    *_, folder = study
    run = Results(folder)
    jobs = run.rows.frame.groupby("part")[["seed", "job"]].apply(lambda some: len(some.drop_duplicates())).to_dict()
    assert jobs == {"start": 2 * 2 * 3, "sequences": 2 * 2, "injection": 2 * 2 * 3, "counterparts": 2 * 3}
    start = run.rows.where(part="start").frame
    assert (start.loc[start["measure"] == "correct", "value"] == 1).all()
    assert (start.loc[start["measure"] == "majority_accuracy", "value"] < 0.5).all()
    for seed in (0, 1):
        assert InstructionVector.load(folder / f"vectors-{seed}" / "none" / "task0.safetensors").heads == (HEAD,)


def test_rows_are_what_the_trajectories_say(study, settings):
    *_, folder = study
    sequences = Results(folder).rows.where(part="sequences")
    rows = sequences.frame
    n_lost = 0
    for seed in (0, 1):
        for name, files in settings.sequences.items():
            trajectory = Trajectory.load(folder / f"{seed}-{file_name(name)}" / "trajectory.safetensors")
            own = rows[(rows["seed"] == seed) & (rows["job"] == name)]
            assert trajectory.tasks == ("task0", "task1", "task2") and trajectory.accuracy[0].eq(1).all()
            accuracy = View(own).where(measure="accuracy", condition=trajectory.checkpoints, unit=trajectory.tasks).frame
            assert accuracy["value"].tolist() == pytest.approx(trajectory.accuracy.T.flatten().tolist())
            for t, verdict in enumerate(verdicts(trajectory)):
                unit = own[own["unit"] == f"{name}/{verdict.task}"]
                judged = unit[unit["measure"].isin(["trained", "not_trained"])]
                trained = f"{verdict.task}.json" in [file.rsplit("/", 1)[1] for file in files]
                assert judged[["condition", "measure"]].values.tolist() == [
                    [verdict.judgement, "trained" if trained else "not_trained"]
                ]
                cosines = unit[(unit["measure"] == "cosine_to_initial") & (unit["condition"] == "vector")]["value"].tolist()
                assert cosines == (pytest.approx([float(trajectory.similarity()[-1, t])]) if verdict.lost else [])
                n_lost += verdict.lost
    assert n_lost > 0
    assert headline(folder)["lost"] == n_lost
    assert len(sequences.where(measure="change", condition="knowledge")) == n_lost
    change = rows[rows["measure"] == "change"].pivot_table("value", ["seed", "unit"], "condition")
    by_hand = (change["knowledge"] - change["instruction"]).groupby("unit").mean()
    assert CLAIMS["knowledge"].estimate(sequences).mean == pytest.approx(by_hand.mean())


def test_a_vector_does_what_the_instruction_does(study):
    *_, folder = study
    rows = Results(folder).rows.where(part="injection").frame
    accuracy = rows[rows["measure"] == "top1_accuracy"]
    assert (accuracy.loc[accuracy["condition"] == "instruction", "value"] == 1).all()
    assert (accuracy.loc[accuracy["condition"] == "none", "value"] < 0.3).all()


def test_no_job_is_run_twice(study, settings):
    model, path, folder = study
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file() and file.name != "study.json"}
    STUDY(model, folder, replace(settings, seeds=(0, 1)), source=path).run()
    after = {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file() and file.name != "study.json"}
    assert after == before
    with pytest.raises(LensFVError, match=r"it was run with max_items \d+ \(requested: 3\); choose another folder"):
        STUDY(model, folder, replace(settings, seeds=(0, 1), max_items=3), source=path)
    with pytest.raises(LensFVError, match="run part nothing of the study: there are start, sequences"):
        STUDY(model, folder, replace(settings, seeds=(0, 1)), source=path).run(["nothing"])


def test_a_page_is_written_from_whatever_parts_there_are(study, tmp_path):
    *_, folder = study
    lines = (folder / "rows.jsonl").read_text().splitlines(keepends=True)
    for part in ("start", "sequences", "injection", "counterparts"):
        partial = tmp_path / part / "planted"
        partial.mkdir(parents=True)
        (partial / "study.json").write_bytes((folder / "study.json").read_bytes())
        (partial / "rows.jsonl").write_text("".join(line for line in lines if json.loads(line)["part"] == part))
        write_page(STUDY, {"planted": partial}, tmp_path / part)
    page = write_page(STUDY, {"planted": folder}, tmp_path)
    n_lost = headline(folder)["lost"]
    assert page.read_text().count(f"A task was lost in {n_lost} of 12 cases, in ") == 2
    assert len((tmp_path / "instruction" / "planted-verdicts.csv").read_text().splitlines()) == 1 + 4 * 3
    with pytest.raises(LensFVError, match="there is no study in"):
        write_page(STUDY, {"planted": tmp_path}, tmp_path)


def test_a_model_that_follows_nothing_is_said(settings, model_folder, tmp_path):
    study = STUDY(load_model(model_folder), tmp_path, replace(settings, mixture=None), source=model_folder)
    with pytest.raises(LensFVError, match="run the part start first"):
        study.run(["counterparts"])
    with pytest.raises(LensFVError, match=r"at the start it follows none of task0, task1, task2; choose other tasks"):
        study.run()
