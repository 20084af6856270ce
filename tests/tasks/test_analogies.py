"""Analogies from files and from relations."""

from dataclasses import replace

import pytest

from lens_fv.core.texts import nfc
from lens_fv.errors import LensFVError
from lens_fv.tasks import Analogy, Pair, Task, load_analogies, load_task, make_analogies, split_pairs

WANT = Analogy("hot", "cold", "big", ("small",))
CHOICE = Analogy("hot", "cold", "big", ("small",), ("small", "red"))
STEMS = Analogy("hot", "cold", "big", ("small",), ("small", "moon"), ("big", "sun"))
SAT = "REAL SATs\nhot cold a:a\nbig small a:a\nsun moon n:n\na\n"


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
            STEMS,
        ),
        ("three-words.txt", "FROM REAL SATs\nhot cold a:a\nbig small a:a\nsun moon n:n\na\n", STEMS),
        ("two-words.txt", "KS SATs\nhot cold a:a\nbig small a:a\nsun moon n:n\nA\n", STEMS),
        ("no-source.txt", "hot cold a:a\nbig small a:a\nsun moon n:n\na\n", STEMS),
        ("no-classes.txt", "hot cold\n# a comment\nbig small\nsun moon\na\n", STEMS),
        ("both.txt", "FROM REAL SATs\nhot cold\nbig small\nsun moon\na\n", STEMS),
        (
            "relbert.jsonl",
            '{"stem": ["hot", "cold"], "answer": 0, "choice": [["big", "small"], ["sun", "moon"]], "prefix": "REAL SATs"}',
            STEMS,
        ),
        ("google.txt", "//Copyright\n: antonyms\nhot cold big small\n", replace(WANT, relation="antonyms")),
    ],
)
def test_every_format(tmp_path, name, text, want):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert load_analogies(tmp_path / name) == [want]


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
        ("a.csv", "a,b,c,d\nhot,cold,big,small,huge\n", "line 2: 5 columns where the header has 4"),
        ("a.csv", "a,b,c,d,d\nhot,cold,big,small,huge\n", "line 1: no rows, or two columns of one name"),
        ("a.csv", 'a,b,c,d\nhot,"cold,big,small\n', "not a valid table"),
        ("a.csv", ",,\n", "no rows"),
        ("a.jsonl", '{"a":{},"b":"c","c":"b","d":"x"}', "line 1: expected a text, found {}"),
        ("a.jsonl", '{"a":"h","b":"c","c":"b","d":[]}', "line 1: analogy h:c::b:"),
        ("a.jsonl", '{"a":"h","b":"c","c":"b","d":"x","choices":5}', "have to differ and hold the answer"),
        ("a.json", "[" * 10000, "more than 64 levels"),
        ("b.csv", "a,b,c,d,answer\nhot,cold,big,small,huge\n", "line 2: the answer can be d, 'small', or answer, 'huge'"),
        (
            "d.jsonl",
            '{"a":"1","b":"2","c":"3","choices":["4","0"],"answer":"0"}',
            "line 1: the answer 0 can be the choice '0' or",
        ),
        (
            "e.jsonl",
            '{"stem": ["hot", "cold"], "choice": [["big", "small"], ["sun"]], "answer": 0}',
            "line 1: stem has to be a",
        ),
        (
            "f.jsonl",
            '{"stem": ["hot", "cold"], "choice": [["big", "small"], ["a", "b"]], "answer": 2}',
            "the number of one, from 0",
        ),
        ("google.txt", ": antonyms\nhot cold big small\nhot cold big\n", "line 3: 'hot cold big' is neither four words nor"),
        ("google.txt", ":\nhot cold big small\n", "line 1: ':' is neither four words nor"),
        ("sat.txt", "hot cold\nbig small\nsun moon\nz\n", r"sat\.txt, line 4: 'z' is not the letter of one of 2 choices"),
        ("sat.txt", "hot cold\nbig small\n", r"sat\.txt, line 1: not a SAT-style block"),
        ("sat.txt", SAT + "\n" + SAT.replace("big small a:a", "big a:a"), "line 9: 'big a:a' is no pair with word classes"),
        ("sat.txt", SAT + "\n" + SAT.replace("big small a:a\n", ""), "line 7: a block of 4 lines, where others have 5"),
        (
            "sat.txt",
            2 * f"{SAT}\n" + SAT.replace("REAL SATs\nhot", "hot").replace("sun", "sun moon n:n\nday"),
            "line 13: the block begins with 'hot cold a:a', others with no pair",
        ),
        (
            "eight.txt",
            "real sats\n" + "hot cold\n" + "".join(f"{c}1 {c}2\n" for c in "abcde") + "a\n",
            "line 1: the first of 8 lines can be a pair, or where the block is from",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path, name, text, said):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(LensFVError, match=said):
        load_analogies(tmp_path / name)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(LensFVError, match="no such file; give analogies"):
        load_analogies(tmp_path / "none.jsonl")


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


def test_headers_of_any_length_shift_nothing(tmp_path):
    """As published: of 374 blocks, 140 had a source of three words, which was taken for the pair."""
    sources = ["190 FROM REAL SATs", "ML: Sat 2", "ML:", "KS SATs"]
    blocks = [
        f"{sources[i % 4]}\na{i} b{i} n:v\n" + "".join(f"{c}{i} {c}{i}x n:v\n" for c in "cdefg") + "abcde"[i % 5] + "\n"
        for i in range(40)
    ]
    (tmp_path / "sat.txt").write_text("# comments\n\n" + "\n".join(blocks))
    read = load_analogies(tmp_path / "sat.txt")
    assert [(x.a, x.b, x.c, x.d) for x in read] == [
        (f"a{i}", f"b{i}", f"{'cdefg'[i % 5]}{i}", (f"{'cdefg'[i % 5]}{i}x",)) for i in range(40)
    ]
    assert {len(x.choices) for x in read} == {5}


def test_a_word_in_another_encoding_is_no_other_choice():
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    task = Task("drinks", (Pair("a", (composed,)), Pair("b", (decomposed,)), Pair("c", ("tea",)), Pair("d", ("milk",))))
    made = make_analogies(task, task.pairs, task.pairs, n_choices=4)
    assert {a.c for a in made} == {"a", "b", "c", "d"}
    for analogy in made:
        assert len({nfc(text) for text in (analogy.b, *analogy.choices)}) == 1 + len(analogy.choices)
