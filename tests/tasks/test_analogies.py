"""Analogies from files and from relations."""

import pytest

from lens_fv.errors import LensFVError
from lens_fv.tasks import Analogy, load_task, make_analogies, read_analogies, split_pairs

WANT = Analogy("hot", "cold", "big", ("small",))
CHOICE = Analogy("hot", "cold", "big", ("small",), ("small", "red"))


@pytest.mark.parametrize(
    ("name", "text", "want"),
    [
        ("a.jsonl", '{"a":"hot","b":"cold","c":"big","d":"small"}\n\n', WANT),
        ("a.json", '[{"a":"hot","b":"cold","c":"big","d":["small"]}]', WANT),
        ("b.jsonl", '{"a":"hot","b":"cold","c":"big","choices":["small","red"],"answer":"small"}', CHOICE),
        ("c.jsonl", '{"a":"hot","b":"cold","c":"big","choices":["small","red"],"answer":0}', CHOICE),
        ("a.csv", "a,b,c,d\nhot,cold,big,small\n", WANT),
        ("a.tsv", "a\tb\tc\td\nhot\tcold\tbig\tsmall\n", WANT),
        ("b.csv", "a,b,c,choices,answer\nhot,cold,big,small|red,small\n", CHOICE),
        (
            "sat.txt",
            "# a comment\n190 FROM REAL SATs\nhot cold a:a\nbig small a:a\nsun moon n:n\na\n\n",
            Analogy("hot", "cold", "big", ("small",), ("small", "moon"), ("big", "sun")),
        ),
    ],
)
def test_every_format(tmp_path, name, text, want):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_analogies(tmp_path / name) == [want]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.jsonl", "", "the file is empty; give analogies"),
        (
            "a.jsonl",
            '{"a":"hot","b":"cold","c":"big","d":"small"}\n{"a":"hot","b":"cold","c":"big","d":" "}',
            r"a\.jsonl, line 2: analogy",
        ),
        ("a.jsonl", '{"a":"hot","b":"cold"}', r"a\.jsonl, line 1: not an analogy; give JSON lines"),
        ("a.jsonl", '{"a":"hot",', r"a\.jsonl, line 1: not valid JSON"),
        ("a.jsonl", '{"a":"h","b":"c","c":"b","choices":["x","y"],"answer":"z"}', "have to differ and hold the answer"),
        ("a.jsonl", '{"a":"h","b":"c","c":"b","choices":["x","x"],"answer":"x"}', "have to differ and hold the answer"),
        ("a.csv", "a,b,c,d\nhot,cold,big,\n", r"a\.csv, line 2: analogy hot:cold::big:"),
        ("a.csv", "x,y\n1,2\n", "not an analogy"),
        ("sat.txt", "hot cold\nbig small\nsun moon\nz\n", r"sat\.txt, line 1: not a SAT-style block"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path, name, text, said):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(LensFVError, match=said):
        read_analogies(tmp_path / name)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(LensFVError, match="no such file; give analogies"):
        read_analogies(tmp_path / "none.jsonl")


def test_an_empty_answer_is_refused():
    with pytest.raises(LensFVError, match="not empty"):
        Analogy("a", "b", "c", ())
    with pytest.raises(LensFVError, match="2 choices have 1 stems"):
        Analogy("a", "b", "c", ("x",), ("x", "y"), ("c",))


def test_analogies_of_a_relation():
    task = load_task("country-capital")
    split = split_pairs(task, seed=0)
    made = make_analogies(task, split.train, split.test, n_choices=4, seed=1)
    facts = {pair.input: pair.outputs for pair in task.pairs}
    assert sorted(a.c for a in made) == sorted(pair.input for pair in split.test)
    for analogy in made:
        assert analogy.b == facts[analogy.a][0]
        assert analogy.a in {pair.input for pair in split.train}
        assert analogy.d == facts[analogy.c]
        assert len(set(analogy.choices)) == 4
        assert [choice for choice in analogy.choices if choice in analogy.d] == [analogy.d[0]]
        assert analogy.b not in analogy.choices
        assert analogy.relation == "country-capital"
    assert make_analogies(task, split.train, split.test, n_choices=4, seed=1) == made
    assert len({a.choices.index(a.d[0]) for a in made}) == 4
    few = make_analogies(task, split.train, split.test, n=5, n_choices=0)
    assert len(few) == 5
    assert not any(a.choices for a in few)


def test_a_relation_without_another_source():
    task = load_task("country-capital")
    with pytest.raises(LensFVError, match="no target has a source of another answer"):
        make_analogies(task, task.pairs[:1], task.pairs[:1])
