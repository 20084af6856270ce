"""The built-in entities keep the rules that make their probes mean something."""

import re
from collections import Counter, defaultdict

import pytest

from lens_fv import LensFVError
from lens_fv.knowledge import load_entities, majority

INVENTED, POPULAR = load_entities("invented"), load_entities("popular")


def question(entity, probe) -> str:
    return probe.text.replace(entity.name, "*")


def test_there_are_as_many_as_promised():
    assert Counter(entity.category for entity in INVENTED) == dict.fromkeys(("person", "place", "device", "event", "work"), 10)
    assert len(POPULAR) == 60
    for entity in INVENTED:
        assert Counter(probe.kind for probe in entity.probes) == {"explicit": 4, "inferential": 4}, entity.name


@pytest.mark.parametrize("entity", INVENTED, ids=lambda entity: entity.name)
def test_a_definition_says_what_is_explicit_and_nothing_else(entity):
    assert entity.definition.startswith(entity.name)
    assert 35 <= len(entity.definition.split()) <= 65
    for probe in entity.probes:
        said = [each for each in probe.candidates if re.search(rf"\b{each}\b", entity.definition, re.IGNORECASE)]
        assert said == ([probe.answer] if probe.kind == "explicit" else []), probe.text
        assert (probe.answer.lower() in entity.definition.lower()) == (probe.kind == "explicit"), probe.text


@pytest.mark.parametrize("entity", [*INVENTED, *POPULAR], ids=lambda entity: entity.name)
def test_a_probe_ends_with_its_gap_and_gives_nothing_away(entity):
    for probe in entity.probes:
        assert probe.text.endswith(" ___.")
        assert entity.name in probe.text
        assert 5 <= len(probe.candidates) <= 8
        assert not any(a != b and a.lower() in b.lower() for a in probe.candidates for b in probe.candidates)
        assert not any(candidate.lower() in probe.text.lower().split() for candidate in probe.candidates)


def test_without_a_definition_candidates_are_as_good_as_each_other():
    """Every question is asked of every entity of a category, and every candidate is right of some and not of many."""
    asked = defaultdict(list)
    for entity in INVENTED:
        for probe in entity.probes:
            asked[entity.category, question(entity, probe)].append(probe)
    assert len(asked) == 5 * 8
    for probes in asked.values():
        assert len(probes) == 10
        assert len({frozenset(probe.candidates) for probe in probes}) == 1
        times = Counter(probe.answer for probe in probes)
        assert set(times) == set(probes[0].candidates)
        assert max(times.values()) <= 3
    places = Counter(probe.candidates.index(probe.answer) for probes in asked.values() for probe in probes)
    assert max(places.values()) <= 400 / 5
    assert majority(INVENTED) == pytest.approx(0.2)


def test_names_differ():
    names = [name.lower() for entity in (*INVENTED, *POPULAR) for name in (entity.name, *entity.aliases)]
    assert len(set(names)) == len(names)


def test_neither_name_nor_file(tmp_path):
    with pytest.raises(LensFVError, match="unknown entities 'inventd': built in are invented and popular"):
        load_entities("inventd")
    with pytest.raises(LensFVError, match="no such file; give entities"):
        load_entities(tmp_path / "mine.jsonl")
