"""Sentences that a model writes about entities, and those from files."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import GenerationMixin

from lens_fv import LensFVError
from lens_fv.knowledge import Entity, TransferSet, generate_transfer_set, load_transfer_set
from lens_fv.knowledge.generation import complete_sentences
from lens_fv.knowledge.transfer import DROPPED

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
VELM, ORLA = Entity("Velm", "Velm talked, talked and walked."), Entity("Orla", "Orla walked to A.")
SHORT = {"n_sentences": 3, "max_new_tokens": 6, "openings": ["{name}"], "temperature": 0.9}


def test_every_sentence_mentions_its_entity_and_goes_on(tiny_model):
    made = generate_transfer_set(tiny_model("llama"), [VELM, ORLA], **SHORT)
    assert list(made.sentences) == ["Velm", "Orla"]
    for entity in (VELM, ORLA):
        texts = made.sentences[entity.key]
        assert 0 < len(texts) == len(set(texts)) <= 3
        assert all(len(text) > entity.mention(text)[1] for text in texts)
    assert made.provenance.options["max_new_tokens"] == 6


def test_the_seed_makes_the_sentences_and_other_entities_do_not(tiny_model):
    model = tiny_model("llama")
    both, alone = generate_transfer_set(model, [VELM, ORLA], **SHORT), generate_transfer_set(model, [ORLA], **SHORT)
    assert both.sentences["Orla"] == alone.sentences["Orla"]
    assert both == generate_transfer_set(model, [VELM, ORLA], **SHORT)
    assert both.sentences != generate_transfer_set(model, [VELM, ORLA], **SHORT, seed=1).sentences


def test_sentences_begin_with_the_openings_in_turn(tiny_model):
    model = tiny_model("gpt2")  # whose positions are learned: padding that shifted them would show
    made = generate_transfer_set(model, [VELM], **SHORT | {"n_sentences": 4, "openings": ["{name}", "So {name} talked"]})
    assert [text.startswith("So Velm talked") for text in made.sentences["Velm"]] == [False, True, False, True]
    # openings of other lengths are padded; what is written behind one does not depend on that
    likeliest = {"temperature": 1e-6, "max_new_tokens": 6}
    both = generate_transfer_set(model, [VELM], n_sentences=2, openings=["{name}", "So {name} talked"], **likeliest).sentences[
        "Velm"
    ]
    assert both[0] == generate_transfer_set(model, [VELM], n_sentences=1, openings=["{name}"], **likeliest).sentences["Velm"][0]
    assert made.provenance.options["openings"] == ("{name}", "So {name} talked")


def test_what_is_written_is_not_written_again(tiny_model, tmp_path, monkeypatch):
    model, path = tiny_model("llama"), tmp_path / "sentences.json"
    whole, asked = generate_transfer_set(model, [VELM, ORLA], **SHORT), []
    generate = GenerationMixin.generate

    def stopped(self, **kwargs):
        asked.append(len(kwargs["input_ids"]))
        if len(asked) == stop_at:
            raise KeyboardInterrupt
        return generate(self, **kwargs)

    monkeypatch.setattr(GenerationMixin, "generate", stopped)
    stop_at = 0
    generate_transfer_set(model, [VELM], **SHORT)
    stop_at, asked = len(asked) + 1, []  # as soon as the second entity is begun
    with pytest.raises(KeyboardInterrupt):
        generate_transfer_set(model, [VELM, ORLA], **SHORT, path=path)
    assert not path.exists()
    stop_at, asked = 0, []
    assert generate_transfer_set(model, [VELM, ORLA], **SHORT, path=path) == whole == load_transfer_set(path)
    assert asked[0] == 3  # the second entity's, and no others
    asked = []
    assert generate_transfer_set(model, [VELM, ORLA], **SHORT, path=path) == whole
    assert asked == []
    assert list(tmp_path.iterdir()) == [path]
    assert generate_transfer_set(model, [VELM, ORLA], **SHORT, seed=1, path=path) != whole
    assert load_transfer_set(path).provenance.seed == 1


def test_what_is_dropped_is_counted(tiny_model, tmp_path):
    row = {
        "name": "Velm",
        "definition": "Velm.",
        "sentences": ["Velm is.", " ", "No.", "Velm is.", "So says Velm.", "Velm was."],
    }
    path = tmp_path / "velm.jsonl"
    path.write_text(json.dumps(row))
    made = load_transfer_set(path)
    assert made.sentences == {"Velm": ("Velm is.", "Velm was.")}
    assert made.dropped == {"empty": 2, "no mention": 1, "duplicate": 1}
    # without an opening a model of random weights mentions nobody
    made = generate_transfer_set(tiny_model("llama"), [VELM], **SHORT | {"openings": [""]})
    assert len(made) == 0
    assert made.dropped["no mention"] + made.dropped["empty"] == 12


def test_definitions_are_sentences_too():
    known, silent = Entity("Velm", "Velm is a lake."), Entity("Orr", "A tool.")
    plain = TransferSet({"Velm": ("Velm lies low.",)}, {"empty": 1})
    assert plain.with_definitions([known, silent], n_copies=2) == TransferSet(
        {"Velm": ("Velm lies low.", "Velm is a lake.", "Velm is a lake.")}, {"empty": 1}
    )
    assert plain.with_definitions([known], n_copies=0) == plain
    assert TransferSet({}).with_definitions([known]).sentences == {"Velm": ("Velm is a lake.",)}
    with pytest.raises(LensFVError, match=r"with_definitions\(n_copies=-1\)"):
        plain.with_definitions([known], n_copies=-1)


def test_entities_share_sentences_under_their_own_names():
    entities = [Entity(name, f"{name} is a lake.") for name in ("Velm", "Orr", "Tass")]
    plain = TransferSet(
        {"Velm": ("Velm lies low.", "The Velm is it, velm."), "Orr": ("Orr lies low.", "Orr ends.")}, {"empty": 1}
    )
    shared = plain.with_shared(entities, n=10, seed=1)
    assert shared.dropped == plain.dropped
    own = {each.name: plain.sentences.get(each.name, ()) for each in entities}
    assert {name: texts[: len(own[name])] for name, texts in shared.sentences.items()} == own
    # what two of them say in the same words is had once
    assert {name: set(texts[len(own[name]) :]) for name, texts in shared.sentences.items()} == {
        "Velm": {"Velm ends."},
        "Orr": {"The Orr is it, Orr."},
        "Tass": {"Tass lies low.", "The Tass is it, Tass.", "Tass ends."},
    }
    assert len(shared.sentences["Tass"]) == 3
    fewer = plain.with_shared(entities, n=1, seed=1)
    assert [len(fewer.sentences[each.key]) for each in entities] == [3, 3, 1]
    assert fewer.sentences == plain.with_shared(entities, n=1, seed=1).sentences
    assert len({plain.with_shared(entities, n=1, seed=seed).sentences["Tass"] for seed in range(10)}) > 1
    assert plain.with_shared(entities[:1], n=10).sentences["Velm"] == plain.sentences["Velm"]
    assert plain.with_shared(entities, n=0).sentences == {**plain.sentences, "Tass": ()}
    with pytest.raises(LensFVError, match=r"with_shared\(n=-1\)"):
        plain.with_shared(entities, n=-1)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Velm is. She was", "Velm is."),
        ("Velm is 3.5 m", "Velm is 3.5 m"),
        ('Velm said "yes!" and', 'Velm said "yes!"'),
        ("Velm is\n\nAnd then.", "Velm is"),
        ("  Velm", "Velm"),
    ],
)
def test_a_sentence_ends_where_it_is_whole(text, kept):
    assert complete_sentences(text) == kept


def test_saved_and_read_again(tiny_model, tmp_path):
    made = generate_transfer_set(tiny_model("llama"), [VELM, ORLA], **SHORT)
    again = load_transfer_set(made.save(tmp_path / "made.json"))
    assert again.sentences == made.sentences
    assert again.dropped == made.dropped
    assert again.provenance.prompts_hash == made.provenance.prompts_hash
    mine = TransferSet({"Velm": ("Velm is.",)})
    assert load_transfer_set(mine.save(tmp_path / "mine.json")) == mine


def test_lines_with_sentences(tmp_path):
    rows = [{"name": "Velm", "definition": "", "sentences": ["Velm is.", "Nobody is."]}, {"name": "Orla", "definition": ""}]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = load_transfer_set(path)
    assert found.sentences == {"Velm": ("Velm is.",), "Orla": ()}
    assert found.dropped == dict.fromkeys(DROPPED, 0) | {"no mention": 1}
    path.write_text(json.dumps(rows[1]), encoding="utf-8")
    with pytest.raises(LensFVError, match="none of its 1 lines has a sentence that mentions its entity"):
        load_transfer_set(path)


def test_what_cannot_be_written_is_said(tiny_model):
    model = tiny_model("llama")
    for entities, options, said in (
        ([VELM], {"n_sentences": 0}, r"generate_transfer_set\(n_sentences=0\)"),
        ([VELM], {"openings": []}, "with 0 openings"),
        ([], {}, "no entities"),
        ([VELM, VELM], {}, "the keys Velm more than once"),
        ([replace(VELM, definition="")], {}, "about Velm: it has no definition"),
        ([replace(VELM, definition="talk " * 300)], {}, "reads 256 with what it writes"),
    ):
        with pytest.raises(LensFVError, match=said):
            generate_transfer_set(model, entities, **options)


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared with the published rows")
def test_published_rows_bring_their_sentences():
    found = load_transfer_set(SHARED / "entity_inferences" / "entity_inferences_augmented.json")
    assert len(found.sentences) == 85
    assert len(found) + sum(found.dropped.values()) == 850
