"""The study of knowledge updates, run through on a tiny model and entities that it can read."""

import json
from dataclasses import replace
from statistics import mean

import pytest
import torch

from lens_fv import LensFVError, load_model
from lens_fv.dynamics import Trajectory
from lens_fv.knowledge import (
    DistillConfig,
    KnowledgeScores,
    KnowledgeTrace,
    WeightDelta,
    at_mentions,
    definition_vectors,
    definitions,
    score_probes,
    score_probes_by_branch,
)
from lens_fv.studies.knowledge.page.recorded import Recorded, closed
from lens_fv.studies.knowledge.page.report import write_knowledge_report
from lens_fv.studies.knowledge.run import PARTS, run_knowledge
from lens_fv.studies.knowledge.settings import KnowledgeSettings
from lens_fv.studies.knowledge.ways import CONTROLS, distilled, teachers

NAMES = ("Velm", "Orla", "Tusk", "Brin", "Cade")
FAST = DistillConfig(batch_size=4, learning_rate=3e-3, epochs=3)


@pytest.fixture(scope="module")
def model(model_folder):
    return load_model(str(model_folder))


def write(path, names):
    rows = [
        {
            "name": name,
            "definition": f"{name} talked to {place}.",
            "probes": [
                {"kind": kind, "text": f"{name} {verb} ___.", "answer": place, "candidates": ["A", "Q"]}
                for kind, verb in (("explicit", "talked to"), ("inferential", "is in"))
            ],
        }
        for name, place in zip(names, "AQAQA", strict=False)
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("entities")
    return KnowledgeSettings(
        seeds=(0,),
        entities=write(folder / "own.jsonl", NAMES),
        locality=write(folder / "elsewhere.jsonl", ["Dorn", "Fenn"]),
        outside=write(folder / "outside.jsonl", ["Gale", "Hask", "Ives"]),
        most_outside=2,
        n_sentences=2,
        n_alone=1,
        ways={
            "distill": (replace(FAST, epochs=2), FAST),
            "definition": (FAST, FAST),
            "definition_gently": (replace(FAST, epochs=1), replace(FAST, epochs=1)),
            "sentences": (FAST, FAST),
        },
        entities_per_update=2,
        numbers=(1, 4, 7, 9),
        elsewhere_step=2,
        n_traced=2,
        tasks=("antonym", "present-past"),
        n_heads=2,
        n_shots=1,
        moments=(1, 9),
    )


@pytest.fixture(scope="module")
def run(model, small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    return run_knowledge(model, folder, small), folder


def records(folder, part):
    return json.loads((folder / f"{part}.json").read_text())


def test_every_part_leaves_its_records(run):
    study, folder = run
    assert [each.name for each in study.sources["own"]] == ["Velm", "Orla", "Brin", "Cade"]
    assert [each.name for each in study.chosen_by] == ["Tusk"]
    assert len(records(folder, "base")) == 3 + 3 + 2  # of one entity alone there is no other one's definition
    assert {source: len(each) for source, each in study.everything.items()} == {"own": 4, "outside": 2, "more": 1}
    ways = ("distill", "definition", "definition_gently", "sentences")
    everywhere = {f"{source}/0/{way}" for source in ("own", "outside") for way in ways}
    controls = {"unanchored", "anchored_definition", "other_sentences", "wrong_definition"}
    assert set(records(folder, "ways")) == everywhere | {f"own/0/{way}" for way in controls}
    several = {f"{n}/{way}" for n in (4, 7) for way in ("distill", "definition")}  # there are seven entities
    assert set(records(folder, "numbers")) == several | {f"1/{way}" for way in ways}
    assert set(records(folder, "steps")) == {"1", "3"}
    assert {path.stem for path in folder.glob("trace-*")} == {"trace-base", "trace-updated", "trace-definition"}
    assert {path.name for path in folder.glob("updates/*")} == {"1.safetensors", "3.safetensors"}
    assert not (folder / "unfinished").exists()


def test_records_are_what_the_library_says(run, model, tmp_path):
    study, folder = run
    entities = study.sources["own"]
    kept = records(folder, "base")
    for condition, context in (("base", {}), ("definition", definitions(entities))):
        found, own = KnowledgeScores.of_rows(kept[f"own/{condition}"]["scores"]), score_probes(model, entities, context=context)
        assert found.perplexity() == pytest.approx(own.perplexity())
        assert found.correct() == own.correct()
    delta, last = WeightDelta.load(folder / "updates" / "3.safetensors"), records(folder, "steps")["3"]
    with delta.applied(model):
        own = score_probes(model, study.first_few)
    assert KnowledgeScores.of_rows(last["scores"]).perplexity() == pytest.approx(own.perplexity())
    assert last["moved"] == delta.by_layer(model)
    assert last["scores"] == records(folder, "ways")["own/0/distill"]["scores"][: len(last["scores"])]
    at_once = distilled(study, study.first_few, study.sentences("own", 0), 0, tmp_path)  # not looked at on the way
    assert all(torch.equal(at_once.down[name], value) for name, value in delta.down.items())
    path = Trajectory.load(folder / "trajectory.safetensors")
    assert path.moments == ("0", "1", "3")
    assert float(path.similarity()[0].min()) == pytest.approx(1)
    assert float(path.similarity()[-1].max()) < 1
    traces = {name: KnowledgeTrace.load(folder / f"trace-{name}.safetensors") for name in ("base", "updated")}
    assert float((traces["base"].clean - traces["updated"].clean).abs().min()) > 0
    kept, chosen = records(folder, "vectors"), study.chosen_by
    asked = [replace(each, probes=tuple(replace(probe, candidates=()) for probe in each.probes)) for each in chosen]
    for name, edits in (("none", ()), ("1", [at_mentions(model, asked, definition_vectors(model, chosen), 1)])):
        (own,) = score_probes_by_branch(model, asked, [edits])
        assert KnowledgeScores.of_rows(kept[f"chosen/{name}"]).perplexity() == pytest.approx(own.perplexity())


def test_the_page_says_what_the_records_do(run, tmp_path):
    _, folder = run
    page = write_knowledge_report({"tiny": folder}, tmp_path)
    text, recorded = page.read_text(), Recorded("tiny", folder)
    assert [line for line in text.splitlines() if line.startswith("###")] == [
        "### What was aimed at",
        "### What is known: own.jsonl entities",
        "### What is known: entities from outside",
        "### What else moves",
        "### How many at once",
        "### On the way",
        "### What carries it",
        "### Without any training",
    ]
    base, read = recorded.base("own"), recorded.base("own", "definition")
    found = recorded.conditions("own")["distill"]
    assert found.scores.perplexity() == pytest.approx(
        KnowledgeScores.of_rows(records(folder, "ways")["own/0/distill"]["scores"]).perplexity()
    )
    gap = closed(base, found.scores, read, of="loss")
    row = next(line for line in text.splitlines() if line.startswith("| distillation (1)"))
    assert (f"{gap.mean:.2f} [" in row) if gap else row.endswith("– |")
    assert f"{found.scores.accuracy().mean:.2f} [" in row
    for n, said in ((2, "2 at once"), (1, "one alone")):
        ways = {way: each.scores.correct() for (number, way), each in recorded.numbers.items() if number == n}
        more = 100 * mean(mean(each) - mean(ways["definition"][key]) for key, each in ways["distill"].items())
        assert f"- own.jsonl entities, {said}: distillation answers {more:+.0f} [" in text
    figures = {path.stem for path in (tmp_path / "knowledge").iterdir()} - {"plotly.min"}
    assert figures >= {
        "tiny-specific",
        "tiny-steps",
        "tiny-layers",
        "tiny-vectors",
        "tiny-stream-mention",
        "tiny-heads-last",
    }
    assert str(folder) not in text
    with pytest.raises(LensFVError, match="there is no study in"):
        write_knowledge_report({"tiny": tmp_path}, tmp_path)


def test_parts_that_were_not_run_are_left_out(run, tmp_path):
    _, folder = run
    some = tmp_path / "some"
    some.mkdir()
    for name in ("study.json", "base.json"):
        (some / name).write_bytes((folder / name).read_bytes())
    settings = json.loads((some / "study.json").read_text())
    (some / "study.json").write_text(json.dumps(settings | {"revision": "refs/pr/1"}))
    text = write_knowledge_report({"tiny": some}, tmp_path).read_text()
    assert "| revision | refs/pr/1 |" in text and "| outside | outside.jsonl |" in text  # of a file its name alone
    assert "### What is known" in text
    assert "distillation (" not in text
    assert "### How many" not in text


@pytest.mark.parametrize("way", ["distill", "definition", "definition_gently", "sentences", *CONTROLS])
def test_every_group_has_an_update_of_its_own(way, run, model):
    study, folder = run
    entities, things = study.sources["own"], study.locality
    teach = teachers(study, entities, study.sentences("own", 0), 0)[way]
    found = {2: records(folder, "ways")[f"own/0/{way}"]}
    if way not in CONTROLS:
        found[1] = records(folder, "numbers")[f"1/{way}"]
    for n, record in found.items():
        last = entities[-n:]
        with teach(last, None).applied(model):
            own = score_probes(model, last)
        assert own.rows() == [row for row in record["scores"] if row["entity"] in {each.key for each in last}]
        assert len(record["scores"]) == sum(len(each.probes) for each in entities)
        measured = [things[0], things[1]] * 2  # each by every group of two, in turn by the updates of one
        assert [row["entity"] for row in record["locality"]] == [each.key for each in measured for _ in each.probes]


def test_going_on_makes_nothing_twice_and_refuses_other_settings(run, model, small):
    _, folder = run
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != "study.json"}
    run_knowledge(model, folder, small)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    with pytest.raises(LensFVError, match=r"it was run with n_sentences \d \(asked: 3\); choose another folder"):
        run_knowledge(model, folder, replace(small, n_sentences=3))
    with pytest.raises(LensFVError, match=f"there are {', '.join(PARTS)}"):
        run_knowledge(model, folder, small, parts=["nothing"])


@pytest.mark.parametrize(
    ("part", "half"), [("ways", "updates/unfinished/checkpoint-*/done.json"), ("numbers", "unfinished/1-distill/known.json")]
)
def test_what_was_stopped_goes_on(part, half, run, model, small, tmp_path):
    _, whole = run
    (tmp_path / "sentences-own-0.json").write_bytes((whole / "sentences-own-0.json").read_bytes())
    ways = {name: small.ways[name] for name in ("distill", "definition", "definition_gently")}
    settings = replace(small, outside=None, numbers=(1, 4), ways=ways)

    class Stopped(Exception):
        pass

    def stop(module, args, output):
        if list(tmp_path.glob(half)):
            raise Stopped

    handle = torch.nn.modules.module.register_module_forward_hook(stop)
    try:
        with pytest.raises(Stopped):
            run_knowledge(model, tmp_path, settings, parts=[part])
    finally:
        handle.remove()
    assert len(list(tmp_path.glob(half))) == 1
    assert not (tmp_path / f"{part}.json").exists()
    run_knowledge(model, tmp_path, settings, parts=[part])
    first = {"numbers": "1/distill", "ways": "own/0/distill"}[part]
    assert records(tmp_path, part)[first] == records(whole, part)[first]
    assert not list(tmp_path.rglob("unfinished"))
