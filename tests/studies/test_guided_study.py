"""The study of guided fine-tuning from end to end, on a model that follows instructions by a known head."""

import json
from dataclasses import replace

import numpy as np
import pytest
from planted import planted_tasks, planted_weights

from lens_fv.cli.app import execute
from lens_fv.dynamics import Trajectory
from lens_fv.errors import LensFVError
from lens_fv.finetuning import FinetuneConfig
from lens_fv.studies.guided.methods import CONTROLS, chosen
from lens_fv.studies.guided.page.recorded import Recorded
from lens_fv.studies.guided.page.report import write_guided_report
from lens_fv.studies.guided.run import run_guided
from lens_fv.studies.guided.settings import CHOOSING, METHODS, GuidedSettings, Method
from lens_fv.studies.guided.training import means
from lens_fv.studies.instruction.settings import InstructionSettings

TRAIN = FinetuneConfig(n_examples=8, batch_size=4, n_checkpoints=1, learning_rate=6e-2, dropout=0.0)
ALL = {"lora", "full", "average", "o-lora", "replay", "ewc", "lwf", "kl", "iv", "fv", "swap", "swap-heads", "swap-kl"}


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    for task in planted_tasks():
        task.save(folder / f"{task.name}.json")
    files = [str(folder / f"task{k}.json") for k in range(3)]
    ground = InstructionSettings(
        sequences={CHOOSING: (files[2],), "first": tuple(files[:2])},
        seeds=(0,),
        mixture=replace(TRAIN, mixed=True, n_examples=4, learning_rate=1e-6),  # so weak that the model stays what it is
        training=TRAIN,
        n_heads=1,
        n_clean=4,
        n_trials=3,
        n_context=2,
        max_items=6,
    )
    methods = {name: METHODS[name][:1] for name in METHODS if name in ALL}
    methods["kl"] = (Method({"guide": replace(METHODS["kl"][0].training["guide"], distill=0.0)}), METHODS["kl"][1])
    ablations = {"iv, adding": ("iv", {"intervene": 1.0})}
    return GuidedSettings(ground=ground, methods=methods, ablations=ablations, head_counts=(2,), depths=(0.5,), epochs=(2,))


@pytest.fixture(scope="module")
def study(settings, tmp_path_factory):
    model = tmp_path_factory.mktemp("models") / "planted"
    planted_weights(model).save_pretrained(model)
    folder = tmp_path_factory.mktemp("work") / "planted"
    return run_guided(str(model), folder, settings)


def test_everything_is_recorded(study, settings):
    counts = {
        part: len(json.loads((study.folder / f"{part}.json").read_text())) for part in ("choosing", "methods", "ablations")
    }
    assert counts == {"choosing": len(ALL) + 1, "methods": len(ALL) + 2, "ablations": 7}
    assert not (study.folder / "runs").exists()
    assert {file.stem for file in (study.folder / "trajectories").iterdir()} == ALL | CONTROLS.keys()
    best = chosen(study)
    assert best["random"] == replace(best["fv"], control="random vectors")
    assert best["other-heads"] == replace(best["swap-heads"], control="other heads")
    assert best["lora"] == METHODS["lora"][0]
    record = json.loads((study.folder / "methods.json").read_text())["0/first/lora"]
    assert record["trained"] == ["task0", "task1"]
    assert set(record["end"]) == set(record["context"]) == {"task0", "task1", "task2"}
    assert set(record["after"]) == {"task0", "task1"}
    assert all(len(items) == 6 for items in record["end"].values())
    path = Trajectory.load(study.folder / "trajectories" / "lora.safetensors")
    kept = Recorded("planted", study.folder).followed["lora"]
    np.testing.assert_allclose(kept["accuracy"][-1], [np.mean(record["end"][name]) for name in path.tasks])
    np.testing.assert_allclose(kept["heads"][0], 1.0, atol=1e-6)
    assert {measure: values.shape for measure, values in kept.items()} == dict.fromkeys(means(path), (3, 3))


def test_metrics_are_their_formulas(study):
    run = Recorded("planted", study.folder)
    record, begin = (run.part(part) for part in ("methods", "begin"))
    lora, found = record["0/first/lora"], run.runs["lora"]["0/first"]
    shares = {name: np.mean(items) for name, items in lora["end"].items()}
    assert found.average == np.mean([np.mean(lora["after"][name][name]) for name in ("task0", "task1")])
    assert found.final == np.mean([shares["task0"], shares["task1"]])
    assert found.forgetting == found.average - found.final
    assert (found.general, found.in_context) == (shares["task2"], np.mean(lora["context"]["task2"]))
    assert found.lost == np.mean(begin["0/first"]["end"]["task2"]) - found.general
    assert np.mean(begin["0/first"]["end"]["task2"]) == 1.0  # the model follows every task at the beginning
    assert run.costs["lora"] == run.costs["average"] == (1.0, 1.0)
    assert run.costs["random"] == run.costs["fv"]
    twice = run.part("ablations")["lora, 2 epochs"]
    learned, held_out = run.beside("lora, 2 epochs")
    less = [np.mean(twice["after"][name][name]) - np.mean(lora["after"][name][name]) for name in ("task0", "task1")]
    assert learned.mean == pytest.approx(np.mean(less))
    assert learned.n == 12
    assert held_out.mean == pytest.approx(np.mean(twice["end"]["task2"]) - shares["task2"])
    assert held_out.n == 6
    tried = {name: [each for each in run.tried if each.method == name] for name in METHODS if name in ALL}
    assert [each.settings for each in tried["kl"]] == ["distill 0.0", "distill 10.0"]
    for name, found in tried.items():
        taken = next(i for i, each in enumerate(found) if each.taken)
        assert chosen(study)[name] == study.settings.methods[name][taken]


def test_what_is_there_is_not_made_again(study, settings):
    before = {file: file.stat().st_mtime_ns for file in study.folder.rglob("*.safetensors")}
    again = run_guided(study.model, study.folder, settings)
    assert before == {file: file.stat().st_mtime_ns for file in again.folder.rglob("*.safetensors")}
    with pytest.raises(LensFVError, match=r"run with head_counts \[.*\] \(asked: \[3\]\)"):
        run_guided(study.model, study.folder, replace(settings, head_counts=(3,)))
    with pytest.raises(LensFVError, match="part none of the study"):
        run_guided(study.model, study.folder, settings, parts=["none"])


def test_the_page_and_the_command(study, tmp_path, capsys):
    page = write_guided_report({"planted": study.folder}, tmp_path).read_text()
    for text in ("## planted", "### The aim", "### Methods", "### Trajectories", "### Ablations", "iv, adding", "fv, 2 heads"):
        assert text in page
    drawn = {file.stem for file in (tmp_path / "guided").iterdir()} - {"plotly.min"}  # images, or pages without Chrome
    assert drawn == {"planted-methods", "planted-accuracy", "planted-vectors"}
    asked = ["reproduce", "guided", "--report-only", "--run-dir", str(study.folder.parent), "--out", str(tmp_path), "--json"]
    assert execute(asked) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["models"]["planted"]["methods"]) == ALL | CONTROLS.keys()
    assert found["models"]["planted"]["methods"]["lora"]["final"]["n"] == 1


def test_settings_chosen_by_few_things():
    quick, usual = GuidedSettings.chosen(quick=True), GuidedSettings.chosen(n_seeds=2)
    assert len(quick.reported) == 1
    assert usual.ground.seeds == (0, 1)
    assert len(usual.reported) == 3
    learned = {task for name in usual.reported for task in usual.ground.sequences[name]}
    assert not learned & set(usual.ground.sequences[CHOOSING])
