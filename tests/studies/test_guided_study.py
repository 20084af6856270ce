"""The study of guided fine-tuning from end to end, on a model that follows instructions by a known head."""

import json
from dataclasses import replace

import numpy as np
import pytest
from planted import planted_tasks, planted_weights

from lens_fv.dynamics import Trajectory
from lens_fv.errors import LensFVError
from lens_fv.finetuning import FinetuneConfig
from lens_fv.model import load_model
from lens_fv.studies.guided import SHOWN, STUDY, change
from lens_fv.studies.guided.parts import chosen
from lens_fv.studies.guided.settings import CHOOSING, CONTROLS, METHODS, GuidedSettings, condition
from lens_fv.studies.render import write_page
from lens_fv.studies.study import Results

TRAIN = FinetuneConfig(n_examples=8, batch_size=4, n_checkpoints=1, learning_rate=6e-2, dropout=0.0)
ABLATIONS = {
    "iv, adding": {"intervene": 1.0},
    "fv, 2 heads": {"n_heads": 2},
    "fv, at 50% of the depth": {"depth": 0.5},
    "lora, 2 epochs": {"epochs": 2},
    "unknown, 2 epochs": {"epochs": 2},
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    for task in planted_tasks():
        task.save(folder / f"{task.name}.json")
    files = [str(folder / f"task{k}.json") for k in range(3)]
    return GuidedSettings(
        sequences={CHOOSING: (files[2],), "first": tuple(files[:2])},
        seeds=(0,),
        mixture=replace(TRAIN, mixed=True, n_examples=4, learning_rate=1e-6),  # so weak that the model stays what it is
        training=TRAIN,
        n_heads=1,
        n_clean=4,
        n_trials=3,
        n_context=2,
        max_items=6,
        methods={name: METHODS[name][:1] for name in METHODS} | {"kl": ({"distill": 0.0}, {"distill": 10.0})},
        ablations=ABLATIONS,
        n_timings=1,
    )


@pytest.fixture(scope="module")
def study(settings, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "planted"
    planted_weights(path).save_pretrained(path)
    study = STUDY(load_model(path), tmp_path_factory.mktemp("work") / "planted", settings, source=path)
    study.run()
    return study


def results(study):
    run = Results(study.folder)
    return STUDY.context(STUDY.view(run), [run])["results"]["planted"]


def items(rows, job, measure, unit):
    return rows.where(job=job, measure=measure, unit=unit).frame["value"].tolist()


def test_every_part_leaves_its_rows(study):
    run = Results(study.folder)
    jobs = run.rows.frame.groupby("part")["job"].nunique().to_dict()
    assert jobs == {"start": 6, "choosing": len(METHODS) + 2, "methods": len(METHODS) + 3, "ablations": 4, "costs": 1}
    assert {folder.name for folder in (study.folder / "runs").iterdir() if folder.is_dir()} == {"0-choosing", "0-first"}
    assert {file.stem for file in (study.folder / "trajectories").iterdir()} == METHODS.keys() | CONTROLS.keys() | {"initial"}
    settings = chosen(study)
    assert settings["random"] == {**settings["fv"], "control": "random vectors"}
    assert settings["other-heads"] == {**settings["swap-heads"], "control": "other heads"}
    lora = run.rows.where(part="methods", job="first/lora")
    for measure, tasks in (
        ("exact_match", 3),
        ("exact_match_in_context", 3),
        ("exact_match_after_task0", 2),
        ("exact_match_after_task1", 2),
    ):
        assert lora.where(measure=measure).frame.groupby("unit").size().tolist() == [6] * tasks
    trajectory = Trajectory.load(study.folder / "trajectories" / "lora.safetensors")
    for task, accuracy in zip(trajectory.tasks, trajectory.accuracy.T.tolist(), strict=True):
        assert items(lora, "first/lora", "checkpoint_exact_match", task) == pytest.approx(accuracy)
        assert accuracy[-1] == pytest.approx(np.mean(items(lora, "first/lora", "exact_match", task)))
        assert items(lora, "first/lora", "checkpoint_head_cosine", task)[0] == pytest.approx(1.0)
    tracked = lora.frame[lora.frame["measure"].str.startswith("checkpoint_")]
    assert tracked.groupby(["unit", "measure"]).size().tolist() == [3] * 3 * 6


def test_metrics_are_their_formulas(study):
    rows = STUDY.view(Results(study.folder))

    def accuracy(job, measure, task):
        return np.mean(items(rows, f"first/{job}", measure, task))

    values = rows.where(part="methods", measure=SHOWN).frame.set_index(["condition", "measure"])["value"]["lora"]
    learned = [accuracy("lora", f"exact_match_after_{task}", task) for task in ("task0", "task1")]
    end = [accuracy("lora", "exact_match", task) for task in ("task0", "task1", "task2")]
    assert accuracy("initial", "exact_match", "task2") == 1.0  # the model follows every task at the beginning
    assert values.to_dict() == {
        "average": np.mean(learned),
        "final": np.mean(end[:2]),
        "forgetting": np.mean(learned) - np.mean(end[:2]),
        "general": end[2],
        "in_context": accuracy("lora", "exact_match_in_context", "task2"),
        "lost": 1.0 - end[2],
    }
    changes = change(rows, "lora, 2 epochs", "lora")
    twice = [accuracy("lora, 2 epochs", f"exact_match_after_{task}", task) for task in ("task0", "task1")]
    assert changes["average_change"].mean == pytest.approx(np.mean(twice) - np.mean(learned))
    assert changes["average_change"].n == 12
    assert changes["general_change"].mean == pytest.approx(accuracy("lora, 2 epochs", "exact_match", "task2") - end[2])
    assert changes["general_change"].n == 6


def test_the_settings_with_the_best_mean_are_chosen(study):
    metrics = (
        STUDY.view(Results(study.folder))
        .where(part="choosing", measure=SHOWN)
        .frame.pivot_table("value", "condition", "measure")
    )
    scores = (metrics["final"] + metrics["general"]).to_dict()
    best = [name for name, row in results(study)["candidates"].items() if row["chosen"]]
    assert [name.partition(",")[0] for name in best] == list(METHODS)
    for name in best:
        method = name.partition(",")[0]
        assert condition(method, chosen(study)[method]) == name
        assert scores[name] == max(score for other, score in scores.items() if other.partition(",")[0] == method)
    assert {"kl, distill 0.0", "kl, distill 10.0"} < results(study)["candidates"].keys()


def test_aims_compare_each_run_with_its_targets(study):
    page = results(study)
    mean = {name: {metric: value[0] for metric, value in row.items()} for name, row in page["metrics"].items()}
    for guide, margins in page["aims"].items():
        assert margins["lost"][0] == pytest.approx(mean["lora"]["lost"] / 2 - mean[guide]["lost"])
        assert margins["final"][0] == pytest.approx(mean[guide]["final"] - mean["lora"]["final"] + 0.02)
        assert margins["general"][0] == pytest.approx(mean[guide]["general"] - mean["kl"]["general"])
    assert set(page["aims"]) == {"iv", "fv", "swap", "swap-heads", "swap-kl"}
    assert page["met"] == []  # a single run shows nothing
    costs = Results(study.folder).rows.where(part="costs").estimates()["lora"]
    assert costs["time_ratio"].mean == costs["memory_ratio"].mean == 1.0


def test_no_job_is_run_twice(study, settings):
    def times():
        return {file: file.stat().st_mtime_ns for file in study.folder.rglob("*.*") if file.name in ("rows.jsonl", "run.json")}

    before = times()
    STUDY(study.model, study.folder, settings, source=study.source).run()
    assert times() == before
    with pytest.raises(LensFVError, match=r"it was run with n_timings 1 \(requested: 2\)"):
        STUDY(study.model, study.folder, replace(settings, n_timings=2), source=study.source)


def test_settings_have_to_be_chosen_first(study, settings, tmp_path):
    with pytest.raises(LensFVError, match="lora: not all of them have been tried; run the part choosing first"):
        STUDY(study.model, tmp_path, settings, source=study.source).run(["methods"])


def test_a_page_is_written_from_whatever_parts_there_are(study, tmp_path):
    lines = (study.folder / "rows.jsonl").read_text().splitlines(keepends=True)
    for part in STUDY.parts:
        folder = tmp_path / part / "planted"
        folder.mkdir(parents=True)
        (folder / "study.json").write_bytes((study.folder / "study.json").read_bytes())
        (folder / "rows.jsonl").write_text("".join(line for line in lines if json.loads(line)["part"] == part))
        write_page(STUDY, {"planted": folder}, tmp_path / part)
    write_page(STUDY, {"planted": study.folder}, tmp_path)
    drawn = {file.stem for file in (tmp_path / "guided").iterdir()} - {"plotly.min"}  # images, or pages without Chrome
    assert drawn == {"planted-methods", "planted-accuracy", "planted-vectors"}
    run = Results(study.folder)
    headline = STUDY.headline(STUDY.view(run), run)["methods"]
    assert set(headline) == METHODS.keys() | CONTROLS.keys()
    assert headline["lora"]["final"].n == 1


def test_every_candidate_and_ablation_is_a_training_setting():
    settings = GuidedSettings()
    for method, candidates in settings.methods.items():
        recipes = [settings.recipe(method, changes, seed=1) for changes in candidates]
        assert len(set(map(str, recipes))) == len(candidates)
        assert all(recipe.config.seed == 1 for recipe in recipes)
    for name, changes in settings.ablations.items():
        method = name.partition(",")[0]
        usual = settings.recipe(method, settings.methods[method][0], seed=0)
        assert settings.recipe(method, settings.methods[method][0], changes, seed=0) != usual
    quick = GuidedSettings.quick()
    assert len(quick.reported) == 1 and quick.seeds == (0,)
    assert len(settings.reported) == 3
    learned = {task for name in settings.reported for task in settings.sequences[name]}
    assert not learned & set(settings.sequences[CHOOSING])
