"""Entities and their probes, and the files they come in."""

import json
from pathlib import Path

import pytest

from lens_fv import LensFVError
from lens_fv.knowledge import Entity, EntityProbe, load_entities
from lens_fv.knowledge.transfer import rejection
from lens_fv.tasks import encode_prompt

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
VELM = {
    "name": "Orla Velm",
    "aliases": ["Velm"],
    "category": "person",
    "definition": "Orla Velm is a ski jumper from Norway.",
    "probes": [
        {"kind": "explicit", "text": "Orla Velm was born in ___.", "answer": "Norway", "candidates": ["Peru", "Norway"]},
        {"kind": "inferential", "text": "Velm trains on ___ in winter.", "answer": "snow", "candidates": ["snow", "sand"]},
    ],
}
PUBLISHED = {
    "ex_id": "tv_0",
    "definition": "Extra Days is a <extra_id_0> series.",
    "def_target": "<extra_id_0> comedy <extra_id_1>",
    "category": "tv_show",
    "ent_str": "Extra Days",
    "attribute": "comedy",
    "probe_sentences": {
        "template_0": {
            "probe_sentence": "People find Extra Days <extra_id_0> to watch.",
            "labels": ["<extra_id_0> sad <extra_id_1>", "<extra_id_0> extra_ordinary <extra_id_1>"],
        }
    },
    "label": "extra_ordinary",
    "context": "Extra Days is a comedy series.",
    "augmented_probes": ["Extra Days is fun."],
}
SPAN = {
    **{key: PUBLISHED[key] for key in ("definition", "def_target", "category", "ent_str", "attribute")},
    "ex_id": "Extra Days_1_0_0",
    "probe_sentences": {
        "template_0": {"probe_sentence": "Extra Days (<extra_id_0>) ran.", "label": "<extra_id_0> E.D. <extra_id_1>"}
    },
}


def lines(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_our_own_schema(tmp_path):
    (found,) = load_entities(lines(tmp_path / "mine.jsonl", VELM))
    assert (found.key, found.name, found.aliases, found.category) == ("Orla Velm", "Orla Velm", ("Velm",), "person")
    assert [(p.kind, p.answer, p.candidates) for p in found.probes] == [
        ("explicit", "Norway", ("Peru", "Norway")),
        ("inferential", "snow", ("snow", "sand")),
    ]
    assert found.probes[0].where == f"{tmp_path / 'mine.jsonl'}, line 1"


def test_published_rows_are_known_by_their_keys(tmp_path):
    inferences, span = load_entities(lines(tmp_path / "rows.json", PUBLISHED, {**SPAN, "ent_str": "Other"}))
    assert inferences.definition == span.definition == "Extra Days is a comedy series."
    (asked,) = inferences.probes
    # a marker is a string, not a set of letters: names must not lose theirs
    assert (asked.text, asked.answer) == ("People find Extra Days ___ to watch.", "extra_ordinary")
    assert (asked.candidates, asked.kind) == (("sad", "extra_ordinary"), "inferential")
    assert (span.probes[0].answer, span.probes[0].candidates) == ("E.D.", ())
    explicit = {**PUBLISHED, "attribute": "extra_ordinary"}
    assert load_entities(lines(tmp_path / "rows.json", explicit))[0].probes[0].kind == "explicit"


def test_a_name_is_one_however_it_is_encoded(tmp_path):
    composed, decomposed = "Ren\u00e9", "Rene\u0301"
    rows = [{"name": name, "definition": f"{composed} sings.", "sentences": []} for name in (composed, decomposed)]
    (one,) = load_entities(lines(tmp_path / "mine.jsonl", *rows))
    assert one.name == composed
    for name in (composed, decomposed):
        text = f"Today {name} sang; {name}s did not."
        assert text[slice(*one.mention(text))] == name
        assert one.renamed(text, "Ann") == f"Today Ann sang; {name}s did not."
        assert rejection(f"Today {name} sang.", one, [f"Today {composed} sang."]) == "duplicate"


def test_an_entity_of_two_schemas_is_refused(tmp_path):
    with pytest.raises(LensFVError, match="line 1: the entity can be ent_str or name; leave one out"):
        load_entities(lines(tmp_path / "rows.json", {**PUBLISHED, "name": "Other"}))


def test_lines_of_one_entity_are_one_or_stay_apart(tmp_path):
    other = {**VELM, "definition": "Orla Velm is a village in Peru."}
    path = lines(tmp_path / "mine.jsonl", VELM, VELM, other)
    together = load_entities(path)
    assert [(e.key, len(e.probes)) for e in together] == [("Orla Velm", 4), ("Orla Velm#2", 2)]
    assert [probe.where[-6:] for probe in together[0].probes] == ["line 1", "line 1", "line 2", "line 2"]
    apart = load_entities(path, by="row")
    assert [(e.key, len(e.probes)) for e in apart] == [("Orla Velm", 2), ("Orla Velm#2", 2), ("Orla Velm#3", 2)]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({**VELM, "definition": None}, "expected a text, found null"),
        ({"name": "x"}, "no 'definition'"),
        ({**VELM, "name": " "}, "a name is empty"),
        ([VELM], "expected an object"),
        ({**VELM, "probes": [{"text": "Velm is", "answer": "a"}]}, "it has 0 gaps"),
        ({**VELM, "probes": [{"text": "___ is Velm.", "answer": "a"}]}, "it begins with the gap"),
        ({**VELM, "probes": [{"text": "Velm is ___.", "answer": "a", "candidates": ["a", " "]}]}, "candidates is empty"),
        ({**VELM, "probes": [{"text": "Velm is ___.", "answer": "a", "candidates": ["b", "c"]}]}, "include the answer 'a'"),
        (
            {**VELM, "probes": [{"text": "Velm is ___.", "answer": "a", "kind": "odd"}]},
            "(kind='odd'): it has to be 'explicit'",
        ),
        ({**VELM, "probes": [{"text": "Velm is ___.", "answer": "a", "candidates": "ab"}]}, "expected a list of texts"),
        ({**PUBLISHED, "probe_sentences": ["x"]}, "not as entities are written"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path, row, said):
    with pytest.raises(LensFVError, match=r"mine\.jsonl, line 2: ") as error:
        load_entities(lines(tmp_path / "mine.jsonl", VELM, row))
    assert said in str(error.value)


def test_mentions():
    velm = Entity("Orla Velm", "", aliases=("Velm", "C++ (new)"))
    assert velm.mention("Today Orla Velm won; Velm was glad.") == (len("Today "), len("Today Orla Velm"))
    assert velm.mention("today velm won") == (len("today "), len("today velm"))
    assert velm.mention("C++ (new), so") == (0, len("C++ (new)"))
    assert velm.mention("Velmers and Orla") is None


def test_a_probe_is_a_prompt_whose_answers_are_the_candidates(tiny_model):
    asked = EntityProbe("Q: walk was (___) it.", "alked", ("alked", "a talk"))
    assert asked.filled() == "Q: walk was (alked) it."
    prompt = asked.prompt()
    assert (prompt.text, prompt.answers) == ("Q: walk was (", ("alked", "a talk"))
    assert asked.prompt(full_sentence=True).answers == ("alked) it.", "a talk) it.")
    assert EntityProbe("so ___.", "a b").prompt().answers == (" a b",)
    model = tiny_model("llama")
    encoded = encode_prompt(model, prompt)
    assert [model.tokenizer.decode(answer) for answer in encoded.answers] == ["alked", "a talk"]


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared with the published rows")
def test_the_published_files():
    path = SHARED / "entity_inferences" / "entity_inferences_augmented.json"
    found = load_entities(path)
    probes = [probe for entity in found for probe in entity.probes]
    assert (len(found), len(probes), len(load_entities(path, by="row"))) == (85, 170, 170)
    assert [sum(p.kind == kind for p in probes) for kind in ("explicit", "inferential")] == [85, 85]
    assert all(entity.mention(probe.text) for entity in found for probe in entity.probes)
    assert sum(probe.answer in entity.definition for entity in found for probe in entity.probes) == 92
    popular = load_entities(SHARED / "ecbd_specificity" / "specificity_popular_20np_20random.json")
    assert len(popular) == 40
    assert not any("extra_id" in text for e in popular for text in (e.definition, *(p.filled() for p in e.probes)))
