"""The study of knowledge updates, run through on a tiny model and entities that it can read."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from lens_fv import LensFVError, load_model
from lens_fv.core.statistics import estimate
from lens_fv.dynamics import Trajectory
from lens_fv.knowledge import (
    DistillConfig,
    KnowledgeScores,
    KnowledgeTrace,
    WeightDelta,
    at_mentions,
    definition_vectors,
    definitions,
    gap_closed,
    score_probes,
    score_probes_by_branch,
)
from lens_fv.studies.knowledge import STUDY, KnowledgeSettings
from lens_fv.studies.knowledge.effects import perplexity
from lens_fv.studies.knowledge.mechanism import TUNING_LOGPROB
from lens_fv.studies.knowledge.page import known, results
from lens_fv.studies.knowledge.updates import CONTROLS, chance_row, make_update, score_rows
from lens_fv.studies.render import write_page
from lens_fv.studies.rows import Job, Row, RowStore
from lens_fv.studies.study import Results, settings_hash

NAMES = ("Velm", "Orla", "Tusk", "Brin", "Cade")
FAST = DistillConfig(batch_size=4, learning_rate=3e-3, epochs=3)
ONCE = replace(FAST, epochs=1)
RECIPES = ("distillation", "finetuning_definition", "finetuning_definition_gentle", "finetuning_sentences")


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
        locality=write(folder / "locality.jsonl", ["Dorn", "Fenn"]),
        external_entities=write(folder / "external.jsonl", ["Gale", "Hask", "Ives"]),
        max_external=2,
        n_sentences=2,
        n_sentences_single=1,
        recipes={
            "distillation": (ONCE, FAST),
            "finetuning_definition": (ONCE, ONCE),
            "finetuning_definition_gentle": (ONCE, ONCE),
            "finetuning_sentences": (ONCE, ONCE),
        },
        entities_per_update=2,
        update_sizes=(1, 4, 7, 9),
        locality_stride=2,
        n_traced=2,
        tasks=("antonym", "present-past"),
        n_heads=2,
        n_shots=1,
        epochs=(1, 9),
    )


@pytest.fixture(scope="module")
def run(model, small, tmp_path_factory):
    study = STUDY(model, tmp_path_factory.mktemp("study"), small)
    study.run()
    return study


@pytest.fixture(scope="module")
def rows(run):
    return STUDY.view(Results(run.folder, "tiny"))


@pytest.fixture(scope="module")
def page(run, rows):
    return results(rows, Results(run.folder, "tiny").settings)


def values(run, part, job, **where):
    """Values of a job's rows by unit and measure."""
    rows = [row for row in run.rows.rows(part, job) if all(getattr(row, key) == value for key, value in where.items())]
    return by_measure(rows)


def by_measure(rows):
    return {(row.unit, row.measure): row.value for row in rows}


def test_every_part_leaves_its_rows(run):
    assert {part: [entity.name for entity in entities] for part, entities in run.sources.items()} == {
        "entities": ["Velm", "Orla", "Brin", "Cade"],
        "external": ["Gale", "Hask"],
        "sizes": ["Ives"],
    }
    assert [entity.name for entity in run.tuning_entities] == ["Tusk"]
    jobs = {part: {line.job for line in run.rows.lines() if line.part == part} for part in run.parts}
    assert jobs == {
        "entities": {"base"} | {f"2/{method}/{group}" for method in (*RECIPES, *CONTROLS) for group in (0, 1)},
        "external": {"base"} | {f"2/{method}/0" for method in RECIPES},
        "sizes": {"base"}
        | {f"1/{method}/{i}" for method in RECIPES for i in range(4)}
        | {
            f"{n}/{method}/0" for n in (4, 7) for method in ("distillation", "finetuning_definition")
        },  # there are seven entities
        "epochs": {"0/base", "1/distillation", "3/distillation", "tasks"},
        "traces": {"base", "distillation", "definition_in_context"},
        "vectors": {"vectors"},
    }
    assert {path.stem for path in run.folder.glob("trace-*")} == {f"trace-{job}" for job in jobs["traces"]}
    assert {path.name for path in run.folder.glob("updates/*")} == {"1.safetensors", "3.safetensors"}
    assert not list(run.folder.rglob("unfinished*"))


def test_rows_are_what_the_library_says(run, model, tmp_path):
    entities = run.sources["entities"]
    for condition, context in (("base", {}), ("definition_in_context", definitions(entities))):
        scores = score_probes(model, entities, context=context)
        known = values(run, "entities", "base", condition=condition)
        for kind in ("explicit", "inferential"):
            for entity, correct in scores.correct(kind=kind).items():
                assert known[entity, f"mc_accuracy/{kind}"] == correct
                (loss,) = scores.span_loss(kind=kind)[entity]
                assert known[entity, f"logprob_per_token_nats/{kind}"] == pytest.approx([-loss])
    (chance,) = [row for row in run.rows.rows("entities", "base") if row.condition == "chance"]
    assert (chance.value, chance.n) == (0.5, 8)
    delta = WeightDelta.load(run.folder / "updates" / "3.safetensors")
    last = values(run, "epochs", "3/distillation")
    with delta.applied(model):
        assert by_measure(score_rows("distillation", score_probes(model, run.first_group))).items() <= last.items()
    changes = delta.by_layer(model)
    assert last["all", "weight_change_percent/others"] == 100 * changes.pop("others")
    assert last["all", "weight_change_percent"] == [100 * change for change in changes.values()]
    recorded = values(run, "entities", "2/distillation/0")
    assert {key: value for key, value in recorded.items() if "n_skipped" not in key[1]}.items() <= last.items()
    straight = make_update(run, "distillation", run.first_group, 0, tmp_path)  # without a stop on the way
    assert all(torch.equal(straight.down[name], value) for name, value in delta.down.items())


def test_what_the_first_update_changes_is_recorded_by_epoch_and_state(run, model):
    trajectory = Trajectory.load(run.folder / "trajectory.safetensors")
    assert trajectory.checkpoints == ("0", "1", "3")
    tasks = values(run, "epochs", "tasks")
    for t, task in enumerate(trajectory.tasks):
        assert tasks[task, "vector_cosine"] == pytest.approx(trajectory.similarity()[:, t].tolist())
        assert tasks[task, "vector_cosine"][0] == pytest.approx(1) and tasks[task, "vector_cosine"][-1] < 1
        assert tasks[task, "exact_match"] == pytest.approx(trajectory.correct[:, t].mean(-1).tolist())
    traces = {name: KnowledgeTrace.load(run.folder / f"trace-{name}.safetensors") for name in ("base", "distillation")}
    assert float((traces["base"].clean - traces["distillation"].clean).abs().min()) > 0
    for name, trace in traces.items():
        rows = values(run, "traces", name)
        assert rows["Orla", "logprob_per_answer_nats/noisy"] == float(trace.noisy[1])
        assert rows["Orla", "residual_effect_nats/last"] == pytest.approx((trace.resid[1, 1] - trace.noisy[1]).tolist())
        effects = (trace.heads - trace.noisy[:, None, None, None]).mean(0)
        assert rows["1.2", "head_effect_nats/mention"] == pytest.approx(float(effects[0, 1, 2]), abs=1e-6)
    tuning = run.tuning_entities
    probes = [replace(entity, probes=tuple(replace(probe, candidates=()) for probe in entity.probes)) for entity in tuning]
    edits = [[at_mentions(model, probes, definition_vectors(model, tuning), 1)], ()]
    with_vector, without = score_probes_by_branch(model, probes, edits)
    for i in range(2):
        name = f"Tusk/{i}", TUNING_LOGPROB
        by_layer = values(run, "vectors", "vectors", condition="base")[name]
        assert by_layer == pytest.approx([-without.span_loss()["Tusk"][i]] * model.n_layers)
        by_layer = values(run, "vectors", "vectors", condition="definition_vector")[name]
        assert by_layer[1] == pytest.approx(-with_vector.span_loss()["Tusk"][i])
    layers = [values(run, "vectors", "vectors", condition="definition_vector")[f"Tusk/{i}", TUNING_LOGPROB] for i in range(2)]
    (best,) = [row.value for row in run.rows.rows("vectors", "vectors") if row.measure == "best_layer"]
    assert best == np.argmax(np.mean(layers, 0))


@pytest.mark.parametrize("method", [*RECIPES, *CONTROLS])
def test_every_group_has_an_update_of_its_own(method, run, model):
    entities = run.sources["entities"]
    jobs = {"entities": ("2", entities[-2:], run.locality)}
    if method in RECIPES:
        jobs["sizes"] = ("1", entities[-1:], run.locality[1:])  # unrelated entities take turns
    for part, (n, last, locality) in jobs.items():
        job = f"{n}/{method}/{1 if part == 'entities' else 3}"
        with make_update(run, method, last, 0).applied(model):
            own = by_measure(score_rows(method, score_probes(model, last)))
            unrelated = by_measure(score_rows(method, score_probes(model, locality), "locality_"))
        recorded = values(run, part, job)
        assert (own | unrelated).items() <= recorded.items()
        assert {unit for unit, measure in recorded} == {entity.key for entity in (*last, *locality)} | {"all"}


def test_effects_and_claims_are_those_of_the_scores(run, model, rows, page):
    entities = run.sources["entities"]
    updates = {method: [make_update(run, method, group, 0) for group in (entities[:2], entities[2:])] for method in RECIPES[:2]}
    base, read = score_probes(model, entities), score_probes(model, entities, context=definitions(entities))
    before, correct = score_probes(model, run.locality), {}
    for method, deltas in updates.items():
        taught, after = [], []
        for delta, group in zip(deltas, (entities[:2], entities[2:]), strict=True):
            with delta.applied(model):
                taught += score_probes(model, group).to_json()
                after += score_probes(model, run.locality).to_json()
        scores, locality, effect = (
            KnowledgeScores.from_json(taught, "taught"),
            KnowledgeScores.from_json(after, "after"),
            page["updates"]["entities"][method],
        )
        correct[method] = scores.correct()
        for value, of in ((effect["gap"], "accuracy"), (effect["gap_loss"], "loss")):
            by_hand = gap_closed(base, scores, read, of=of)
            assert value == (by_hand and pytest.approx(by_hand))
        change = [np.mean(x) - np.mean(before.correct()[unit]) for unit, x in locality.correct().items()]
        assert effect["accuracy"].mean == pytest.approx(100 * np.mean(change))
        loss = [np.mean(x) - np.mean(before.span_loss()[unit]) for unit, x in locality.span_loss().items()]
        assert effect["perplexity"][:3] == pytest.approx([100 * np.expm1(x) for x in estimate(loss)[:3]])
        knowledge = known(rows, "entities")[method]
        assert knowledge["accuracy"] == pytest.approx(scores.accuracy())
        assert knowledge["inferential"] == pytest.approx(scores.accuracy(kind="inferential"))
        assert knowledge["perplexity"] == pytest.approx(scores.perplexity())
    more = [np.mean(correct["distillation"][key]) - np.mean(correct["finetuning_definition"][key]) for key in base.correct()]
    assert page["claims"]["entities"]["finetuning_definition"] == pytest.approx(estimate(more))
    assert set(page["claims"]["sizes"]) == set(RECIPES[1:])
    assert {(n, source) for n, _, source in page["sizes"]} == {(n, "entities") for n in (1, 2, 4, 7)} | {(7, "external")}
    assert page["sizes"][2, "distillation", "entities"] == page["updates"]["entities"]["distillation"]  # with one seed


def by_hand(folder, kl):
    """Two entities and one unrelated one: the base knows nothing, reading teaches all, and an update half as much."""
    rows = {"base": (0.0, -3.0, -1.0), "definition_in_context": (1.0, -1.0, None), "distillation": (0.5, -2.0, -1.5)}
    settings = {"seeds": [0, 1], "entities": "e", "entities_per_update": 2, "recipes": RECIPES}
    (folder / "study.json").write_text(json.dumps({"model": "toy", **settings}))
    store = RowStore(folder / "rows.jsonl", "toy", settings_hash(settings))
    for condition, (accuracy, logprob, unrelated) in rows.items():
        for seed, values in enumerate(kl if condition == "distillation" else [()]):
            known = [Row(u, condition, f"mc_accuracy/{k}", [accuracy]) for u in "ab" for k in ("explicit", "inferential")]
            known += [Row(unit, condition, "logprob_per_token_nats/explicit", [logprob]) for unit in "ab"]
            known.append(Row("x", condition, "locality_logprob_per_token_nats", [unrelated]))
            for name, value in zip(("", "/ci_low", "/ci_high"), values, strict=False):
                known.append(Row("all", condition, f"locality_kl_nats_per_token{name}", value, 9))
            store.compute(Job("entities", f"2/{condition}/0", partial(list, known), seed))
    run = Results(folder, "toy")
    return results(STUDY.view(run), run.settings)["updates"]["entities"]["distillation"]


def test_effects_by_hand(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    effect = by_hand(tmp_path / "one", kl=[(0.2, 0.1, 0.4)])
    assert effect["gap"] == effect["gap_loss"] == (0.5, 0.5, 0.5, 2)
    assert effect["perplexity"] == pytest.approx([100 * (np.e**0.5 - 1)] * 3 + [1])
    assert effect["accuracy"] is None
    assert effect["kl"] == (0.2, 0.1, 0.4, 9)  # of one update: as it was recorded
    assert by_hand(tmp_path / "two", kl=[(0.2, 0.1, 0.4), (0.4, 0.3, 0.8)])["kl"] == estimate([0.2, 0.4])  # over seeds
    assert perplexity(estimate([-1.0, -1.0])) == pytest.approx([np.e] * 3 + [2])


def test_probes_without_a_kind_are_not_told_apart():
    logprobs = torch.tensor([[-1.0, -2.0], [-4.0, -3.0]])
    scores = KnowledgeScores(("a", "a"), ("", "explicit"), (0, 0), logprobs, torch.tensor([[1, 1], [2, 1]]))
    assert list(score_rows("c", scores)) == [
        Row("a", "c", "mc_accuracy", [1.0, 1.0]),
        Row("a", "c", "logprob_per_token_nats", [-1.0, -2.0]),
    ]
    assert chance_row(scores) == Row("all", "chance", "mc_accuracy", 0.5, 2)


def test_the_page_shows_all_that_was_run(run, rows, tmp_path):
    page = write_page(STUDY, {"tiny": run.folder, "other": run.folder}, tmp_path)
    assert str(run.folder) not in page.read_text()
    figures = {path.stem for path in (tmp_path / "knowledge").iterdir()}
    assert figures >= {
        f"{model}-{name}"
        for model in ("tiny", "other")
        for name in ("specific", "steps", "layers", "vectors", "stream-mention", "heads-last")
    }
    assert len(STUDY.headline(rows, Results(run.folder, "tiny"))) == 8 + 4 + 4


@pytest.mark.parametrize("part", STUDY.parts)
def test_a_page_is_written_from_any_part(part, run, tmp_path):
    (tmp_path / "study.json").write_bytes((run.folder / "study.json").read_bytes())
    lines = (run.folder / "rows.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "rows.jsonl").write_text("".join(line for line in lines if json.loads(line)["part"] == part))
    write_page(STUDY, {"tiny": tmp_path}, tmp_path)
    some = Results(tmp_path, "tiny")
    page = results(STUDY.view(some), some.settings)
    assert bool(page["claims"]) == bool(page["updates"]) == (part in ("entities", "external", "sizes"))
    assert {source for _, _, source in page["sizes"]} == ({"external"} if part == "sizes" else set())  # those that fill it


def test_going_on_makes_nothing_twice_and_refuses_other_settings(run, model, small):
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*") if path.is_file() and path.name != "study.json"}
    STUDY(model, run.folder, small).run()
    assert before == {path: path.stat().st_mtime_ns for path in before}
    with pytest.raises(LensFVError, match=r"it was run with n_sentences \d \(requested: 3\); choose another folder"):
        STUDY(model, run.folder, replace(small, n_sentences=3))
    with pytest.raises(LensFVError, match=f"there are {', '.join(STUDY.parts)}"):
        run.run(["nothing"])


@pytest.mark.parametrize("part", ["entities", "sizes"])
def test_what_was_stopped_goes_on(part, run, model, small, tmp_path):
    (tmp_path / "sentences-entities-0.json").write_bytes((run.folder / "sentences-entities-0.json").read_bytes())
    settings = replace(small, external_entities=None)
    study = STUDY(model, tmp_path, settings)

    class Stopped(Exception):
        pass

    def stop(module, args, output):
        checkpoints = list(tmp_path.glob("updates/unfinished/checkpoint-*/done.json"))
        if checkpoints or any(line.job.startswith("1/distillation") for line in study.rows.lines()):
            raise Stopped

    handle = torch.nn.modules.module.register_module_forward_hook(stop)
    try:
        with pytest.raises(Stopped):
            study.run([part])
    finally:
        handle.remove()
    assert [line.job for line in study.rows.lines()] == (["base"] if part == "entities" else ["1/distillation/0"])
    again = STUDY(model, tmp_path, settings)
    for job in list(STUDY.parts[part](again))[:2]:
        again.rows.compute(job)
    job = {"sizes": "1/distillation/1", "entities": "2/distillation/0"}[part]
    assert [line.job for line in again.rows.lines()] == [study.rows.lines()[0].job, job]
    assert again.rows.rows(part, job) == run.rows.rows(part, job)
    assert not list(tmp_path.rglob("unfinished*"))
