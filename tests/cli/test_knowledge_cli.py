"""distill and knowledge write|evaluate|export, end to end, on a tiny model in a folder."""

import json
import re
from dataclasses import asdict

import pytest

from lens_fv import load_model
from lens_fv.cli.distill import distill
from lens_fv.knowledge import DistillConfig, TransferSet, WeightDelta, load_entities, load_transfer_set, score_probes
from lens_fv.knowledge.settings import ALONE, TOGETHER

ROWS = [
    {
        "name": name,
        "definition": f"{name} talked and walked to {place}.",
        "probes": [
            {"kind": kind, "text": f"{name} {verb} ___.", "answer": place, "candidates": ["A", "Q"]}
            for kind, verb in (("explicit", "walked to"), ("inferential", "is in"))
        ],
    }
    for name, place in (("Velm", "A"), ("Orla", "Q"))
]
FAST = ["--epochs", "2", "--batch-size", "2", "--learning-rate", "0.01"]
TWO = ["--n-sentences", "2"]


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS))
    return ["--entities", "mine.jsonl"]


def test_teach_and_ask(run, rows, tmp_path, model_folder):
    code, result, _ = run("distill", *rows, *FAST, *TWO, "--out", "mine")
    assert code == 0
    assert result["entities"] == ["Velm", "Orla"]
    written = load_transfer_set(tmp_path / result["transfer"])
    # what they share and their definitions are taught too; of others, what was written, once in both epochs
    entities = load_entities(tmp_path / "mine.jsonl")
    assert result["sentences"] == len(written.with_shared(entities, n=10)) + 2 * 5 > 4 + 2 * 5
    assert result["anchors"] / 2 == len(written) == 4
    assert result["dropped"] == written.dropped
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["transfer.json", "update.safetensors"]
    assert result["by_layer"]["0"] > 0
    none = ["--n-anchors", "0", "--n-definitions", "0", "--n-shared", "0"]
    code, again, _ = run("distill", *rows, *FAST, *none, "--out", "again", "--transfer", result["transfer"])
    assert (code, again["sentences"], again["anchors"], again["transfer"]) == (0, 4, 0, result["transfer"])
    nothing = str(TransferSet({}).save(tmp_path / "nothing.json"))
    code, read, error = run("distill", *rows, *FAST, "--out", "read", "--transfer", nothing)
    assert code == 0, (read, error)
    assert (code, read["sentences"], read["anchors"], read["transfer"]) == (0, 2 * 5, 0, nothing)
    assert WeightDelta.load(tmp_path / "read" / "update.safetensors").provenance.method == "distill"
    code, texts, _ = run("distill", *rows, *FAST, "--target", "definition", "--update", "lora", "--out", "texts")
    assert (code, texts["sentences"], texts["anchors"], texts["transfer"]) == (0, 2, 8, None)
    assert run("show", "mine/update.safetensors", model=False)[1]["kind"] == "WeightDelta"

    arguments = ["mine", "texts/update.safetensors", *rows, "--locality", "mine.jsonl"]
    code, tested, _ = run("knowledge", "evaluate", *arguments, "--out", "found.json")
    assert code == 0
    conditions = {row["condition"]: row for row in tested["conditions"]}
    assert list(conditions) == ["base", "definition", "random_definition", "mine", "texts"]
    assert tested["chance"] == 0.5
    assert json.loads((tmp_path / "found.json").read_text()) == tested
    model, entities = load_model(str(model_folder)), load_entities(tmp_path / "mine.jsonl")
    with WeightDelta.load(tmp_path / "mine" / "update.safetensors").applied(model):
        own = score_probes(model, entities)
    assert conditions["mine"]["perplexity"]["mean"] == pytest.approx(own.perplexity().mean)
    assert conditions["mine"]["locality_accuracy"]["mean"] == own.accuracy().mean
    assert conditions["mine"]["kl_to_base_nats_per_token"]["mean"] > 0
    assert conditions["base"]["kl_to_base_nats_per_token"] is None

    code, _, _ = run("knowledge", "export", "texts", "--adapter", "--out", "adapter")
    assert code == 0
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    assert run("knowledge", "export", "mine", "--out", "updated")[0] == 0
    code, of_copy, _ = run("knowledge", "evaluate", *rows, "--model", "updated", "--locality", "none", model=False)
    assert of_copy["conditions"][0]["perplexity"]["mean"] == pytest.approx(own.perplexity().mean, rel=1e-5)


def test_bench_teach(run, rows):
    code, result, error = run("bench", "teach", *rows, "--n-sentences", "3", "--n-entities", "2")
    assert code == 0, error
    assert [way["name"] for way in result["ways"]] == ["distilled", "fine-tuned", "fine-tuned, all weights"]
    assert result["entities"] == 2
    assert 3 <= result["sentences"] <= 5  # with the definition, twice; sentences that say what another says are dropped
    assert result["ways"][1]["time_ratio"] == result["ways"][1]["memory_ratio"] == 1.0
    assert all(way["seconds"] > 0 and way["bytes"] > 0 for way in result["ways"])
    code, _, error = run("bench", "teach", "--model", "random:smollm2-135m", model=False, as_json=False)
    assert (code, "write no sentences" in error) == (2, True)


def test_write_for_another(run, rows, tmp_path):
    code, result, _ = run(
        "knowledge",
        "write",
        *rows,
        "--entity",
        "Orla",
        "--n-sentences",
        "2",
        "--max-new-tokens",
        "6",
        "--openings",
        "So {name}",
    )
    assert code == 0
    assert list(result["sentences"]) == ["Orla"]
    assert all(text.startswith("So Orla") for text in result["sentences"]["Orla"])
    assert list(load_transfer_set(tmp_path / "transfer.json").sentences["Orla"]) == result["sentences"]["Orla"]


def test_bad_requests_are_one_line(run, rows, tmp_path):
    for arguments, message in (
        (["distill", *rows, "--entity", "Nobody"], "entities Nobody of mine.jsonl: its 2 have other names, such as Velm, Orla"),
        (["distill", "--entities", "nosuch"], "unknown entities 'nosuch'"),
        (["distill", *rows, "--transfer", "mine.jsonl"], "none of its 2 lines has a sentence"),
        (["distill", *rows, "--layers", "9", "--target", "definition"], "layer 9 of"),
        (["distill", *rows, "--learning-rate", "0"], "--learning-rate 0: it has to be a finite number above 0"),
        (["knowledge", "evaluate", "nosuch.safetensors", *rows], "nosuch.safetensors"),
    ):
        code, _, error = run(*arguments)
        assert (code, error.count("\n")) == (2, 1), arguments
        assert message in error


def test_the_released_preset(run, rows, tmp_path):
    code, result, err = run(
        "distill", *rows, "--preset", "released", "--n-sentences", "2", "--epochs", "2", "--out", "released"
    )
    assert code == 0, err
    recorded = WeightDelta.load(tmp_path / "released" / "update.safetensors").provenance.options
    expected = asdict(DistillConfig.released(epochs=2, n_checkpoints=2))
    assert {name: recorded[name] for name in expected} == expected
    assert (result["sentences"], result["anchors"]) == (4, 0)
    clipped = [
        "--max-grad-norm",
        "0.5",
        "--top-k",
        "9",
        "--update",
        "lora",
        "--target-tokens",
        "after_mention",
        "--temperature",
        "1",
    ]
    assert run("distill", *rows, "--preset", "released", *FAST[:2], *clipped, "--n-sentences", "2", "--out", "mixed")[0] == 0
    mixed = WeightDelta.load(tmp_path / "mixed" / "update.safetensors").provenance.options
    assert [mixed[name] for name in ("max_grad_norm", "top_k", "update", "target_tokens", "temperature")] == [
        0.5,
        9,
        "lora",
        "after_mention",
        1.0,
    ]
    assert mixed["optimizer"] == "per_sentence"
    usual = ["--max-grad-norm", "none", "--top-k", "none", "--out", "usual"]
    assert run("distill", *rows, *FAST, *TWO, *usual)[0] == 0
    plain = WeightDelta.load(tmp_path / "usual" / "update.safetensors").provenance.options
    assert (plain["max_grad_norm"], plain["top_k"], plain["optimizer"]) == (None, None, "shared")


def test_help_states_the_defaults_of_distillation():
    help_text = distill.options["preset"].help
    for value in [*ALONE.values(), *TOGETHER.values()]:
        assert value is True or re.search(rf"\b{value:g}\b", help_text)
