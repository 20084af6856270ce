"""Every built-in relation against the rules that make a result on it mean something."""

import json
import re
import subprocess
import sys
from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from lens_fv.errors import LensFVError
from lens_fv.tasks import Task, list_tasks, load_task, split_pairs

FAMILIES = {
    "morphology": {"inflection", "derivation"},
    "lexical semantics": {
        "class inclusion",
        "part-whole",
        "similarity",
        "contrast",
        "attribute",
        "case relation",
        "cause-purpose",
        "space-time",
        "reference",
    },
    "world knowledge": {"geography", "culture", "people", "organizations", "science"},
    "translation": {"from English", "into English"},
    "form": {"letters", "numbers", "lists"},
}
NAMES = list_tasks()
each_task = pytest.mark.parametrize("name", NAMES)


def raw(name: str) -> dict[str, Any]:
    return json.loads((files("lens_fv.tasks") / "data" / f"{name}.json").read_text(encoding="utf-8"))


def test_there_are_enough_relations_in_every_family():
    assert len(NAMES) >= 100
    assert list(NAMES) == sorted(NAMES)
    found = Counter((load_task(name).group, load_task(name).family) for name in NAMES)
    assert set(found) == {(group, family) for group, families in FAMILIES.items() for family in families}
    assert min(found.values()) >= 2


def test_relations_are_listed_by_group_and_family():
    inflections = list_tasks(group="morphology", family="inflection")
    assert "present-past" in inflections
    assert set(inflections) < set(list_tasks(group="morphology")) < set(NAMES)
    with pytest.raises(LensFVError, match=r"family 'geography': there are none; known are .*form / letters"):
        list_tasks(group="morphology", family="geography")


@each_task
def test_a_relation_says_what_it_is(name: str):
    task = load_task(name)
    assert task.name == name
    assert len(set(task.instructions)) >= 3
    assert all(text == text.strip() for text in task.instructions + task.clozes)
    assert task.clozes
    assert task.relation_words
    assert len(task.languages) == 2
    assert task.source
    assert task.licence


@each_task
def test_a_relation_has_enough_pairs(name: str):
    task, few = load_task(name), raw(name).get("few_because")
    enough = 150 if task.group in ("morphology", "translation") else 60
    assert len(task) >= (40 if few else enough)
    assert len(task) < enough or not few, "it has enough, the excuse can go"
    assert len(split_pairs(task).test) >= 12


@each_task
def test_rows_are_clean(name: str):
    task, rows = load_task(name), raw(name)["pairs"]
    inputs = [pair.input.casefold() for pair in task.pairs]
    assert len(rows) == len(set(inputs)), "an input twice"
    for pair in task.pairs:
        assert len(set(pair.outputs)) == len(pair.outputs)
        for text in (pair.input, *pair.outputs):
            assert text == " ".join(text.split())
    for row in rows:
        assert set(row) == {"input", "output"}
        outputs = [row["output"]] if isinstance(row["output"], str) else row["output"]
        assert all(text == text.strip() for text in [row["input"], *outputs])
        assert len(set(outputs)) == len(outputs)


@each_task
def test_no_pair_beside_its_reverse_and_no_answer_equal_to_its_input(name: str):
    task = load_task(name)
    facts = {(pair.input, output) for pair in task.pairs for output in pair.outputs}
    if not raw(name).get("same_ok"):
        assert not [given for given, output in facts if given == output]
    assert not [(a, b) for a, b in facts if a != b and (b, a) in facts]


@each_task
def test_a_constant_answer_scores_little(name: str):
    assert load_task(name).majority[1] < 0.30


@each_task
def test_spelling(name: str):
    wordfreq = pytest.importorskip("wordfreq", reason="the word list (package wordfreq) is not installed")
    task = load_task(name)
    texts = [(pair.input, task.languages[0]) for pair in task.pairs]
    texts += [(output, task.languages[1]) for pair in task.pairs for output in pair.outputs]
    unknown = [
        word
        for text, language in texts
        if language != "-"
        for word in re.findall(r"[^\W\d_]+(?:['’-][^\W\d_]+)*", text)
        if len(word) > 1 and wordfreq.zipf_frequency(word, language) < 1.0
    ]
    assert not unknown


RULES = {
    "capitalize": str.capitalize,
    "uppercase": str.upper,
    "lowercase": str.lower,
    "first-letter": lambda text: text[0],
    "last-letter": lambda text: text[-1],
}


@pytest.mark.parametrize("name", RULES)
def test_relations_that_are_a_rule_follow_it(name: str):
    assert not [pair for pair in load_task(name).pairs if pair.outputs != (RULES[name](pair.input),)]


def test_numbers_agree_with_each_other():
    digits = {pair.input: int(pair.output) for pair in load_task("number-digits").pairs}
    words = {pair.input: pair.output for pair in load_task("digits-number").pairs}
    assert {word: str(number) for word, number in digits.items()} == {word: n for n, word in words.items()}
    digits["one hundred one"] = 101
    assert not [p for p in load_task("next-number").pairs if digits[p.output] != digits[p.input] + 1]
    values = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
    for pair in load_task("number-roman").pairs:
        letters = [values[letter] for letter in pair.output]
        signed = [-a if a < b else a for a, b in zip(letters, [*letters[1:], 0], strict=True)]
        assert sum(signed) == int(pair.input)


# -- loading by name or path ------------------------------------------------------------------------------------------


def test_a_task_of_your_own_is_loaded_by_path(tmp_path: Path):
    path = tmp_path / "mine.csv"
    path.write_text("input,output\nhot,cold\n", encoding="utf-8")
    assert load_task(path) == load_task(str(path))
    assert isinstance(load_task("antonym"), Task)


@pytest.mark.parametrize("asked", ["antonyms", "Antonym", "antonim"])
def test_an_unknown_name_suggests_near_ones(asked: str):
    with pytest.raises(LensFVError, match=rf"unknown task '{asked}': did you mean .*antonym.*list_tasks\(\) lists"):
        load_task(asked)


def test_an_unknown_name_near_nothing_says_how_to_list(tmp_path: Path):
    with pytest.raises(LensFVError, match="unknown task 'zzz': `lens-fv tasks`"):
        load_task("zzz")
    with pytest.raises(LensFVError, match="no such file"):
        load_task(tmp_path / "nothing.json")


def test_tasks_need_no_torch():
    code = "import sys, lens_fv.tasks; lens_fv.tasks.load_task('antonym'); print({'torch', 'transformers'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
