"""Files of human judgements: what is read, and which line is wrong."""

from pathlib import Path

import numpy as np
import pytest

from lens_fv.errors import LensFVError
from lens_fv.evaluation.alignment import load_judgements, load_semeval

SQUARE = ",a,b,c,d\nb,0.5,1,0.2,0.4\na,1,0.5,0.1,0.3\nc,.1,0.2,1,\nd,0.3,0.4,,1\n"
LIST = "a,b,score\na,b,0.5\nc,a,.1\na,d,0.3\nb,c,0.2\nd,b,0.4\n"
LINES = '{"a": "a", "b": "b", "score": 0.5}\n\n{"a": "c", "b": "a", "score": 0.1}\n' + "".join(
    f'{{"a": "{a}", "b": "{b}", "score": {s}}}\n' for a, b, s in (("a", "d", 0.3), ("b", "c", 0.2), ("d", "b", 0.4))
)
TRIANGLE = "\n,a,b,c,d\na,,0.5,0.1,0.3\nb,,,0.2,0.4\nc,,,,\nd,,,,\n"


@pytest.mark.parametrize(
    "text", [SQUARE, LIST, LINES, TRIANGLE, SQUARE.replace(",", "\t"), LIST.replace(",", ";"), "\ufeff" + SQUARE]
)
def test_every_form_says_the_same(tmp_path, text):
    path = tmp_path / "judged"
    path.write_text(text, encoding="utf-8")
    matrix = load_judgements(path, known=tuple("abcdef")).subset("abcd")
    np.testing.assert_allclose(matrix.upper, [0.5, 0.1, 0.3, 0.2, 0.4, np.nan])


def test_names_are_compared_in_any_encoding_and_called_as_they_are_known(tmp_path):
    composed, decomposed = "ann\u00e9e", "anne\u0301e"
    (tmp_path / "judged.csv").write_text(f"a,b,score\n{composed},b,1\nc,{decomposed},2\nb,c,3\nd,b,4\n", encoding="utf-8")
    matrix = load_judgements(tmp_path / "judged.csv", known=[decomposed, "b", "c", "d"])
    assert matrix.names == (decomposed, "b", "c", "d")
    np.testing.assert_allclose(matrix.values[0, 1:3], [1, 2])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        (",a,b,c,d\na,1,2,3,4\nb,2,1,5,6\nc,3,5.1,1,7\nd,4,6,7,1\n", "line 4: c and b score 5.1 here and 5 in line 3"),
        (",a,b,c,d\na,1,2,3,4\nb,2,1,x,6\n", "line 3: the score of b and c is 'x'"),
        (",a,b,c,d\na,1,2,3\n", "line 2: the row of 'a' has 3 scores for 4 columns"),
        (",a,b,c,d\na,1,2,3,4\na,1,2,3,4\n", "line 3: the row of 'a'"),
        (",a,b,c,d\na,1,2,3,4\nb,2,1,5,6\n", "line 3: the table ends without a row of c, d"),
        (",a,b,c,d\na,1,2,3,4\ne,2,1,5,6\n", "line 3: the row of 'e'"),
        (",a,a,c\n", "line 1: the first row holds no names, or one twice"),
        ("a b 3\n", "line 1"),
        (LIST + 'c,"d,1\n', "line 7: not a table"),
        (LIST + "a,q,1\n", "line 7: unknown relation 'q'; known are a, b, c, d"),
        (LIST + "c,b,1\n", "line 7: c and b score 1 here and 0.2 in line 5"),
        (LIST + "c,b\n", "line 7: 2 cells"),
        (LIST + "c,d,inf\n", "line 7: 'c' and 'd' score 'inf'"),
        (LIST + "c,,1\n", "line 7: 'c' and '' score '1'"),
        (LINES + '{"a": "c", "b": "d"}\n', "line 7: not a judgement"),
        (LINES + '{"a": "c"\n', "line 7: not valid JSON"),
        ("a,b,score\na,b,1\nb,c,2\n", "3 items; a comparison takes at least 4"),
    ],
)
def test_errors_have_file_and_line(tmp_path, text, message):
    path = tmp_path / "judged.csv"
    path.write_text(text)
    with pytest.raises(LensFVError) as e:
        load_judgements(path, known=tuple("abcd"))
    assert message in str(e.value)
    assert str(path) in str(e.value)


def test_unreadable_files(tmp_path):
    (tmp_path / "latin").write_bytes(b"\xe9,a,b")
    for name, message in {"latin": "line 1: not UTF-8", "missing": "no such file; give judgements", ".": "a folder"}.items():
        with pytest.raises(LensFVError, match=message):
            load_judgements(tmp_path / name)


RATINGS = '# header\n 60.0 "bird:robin"\n 1.5 "dog:pug"\n-40.0 "robin:bird"\n'
PARADIGMS = "1, a, CLASS-INCLUSION, Taxonomic, flower:tulip, emotion:rage,poem:sonnet\n10, c, REFERENCE, Plan, map:land\n"


def semeval(folder: Path, **files: str) -> Path:
    content = {
        "subcategories-paradigms.txt": PARADIGMS,
        "subcategories-definitions.txt": "1, a, CLASS-INCLUSION, Taxonomic, Y is a kind, or type, of X\n",
        "Phase2AnswersScaled/Phase2Answers-1a.txt": RATINGS,
        "Phase2AnswersScaled/Phase2Answers-10c.txt": RATINGS,
    }
    for name, text in content.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files.get(path.stem.rpartition("-")[2], text))
    return folder


def test_semeval_relations(tmp_path):
    one, other = load_semeval(semeval(tmp_path))
    assert (one.name, one.group, one.family) == ("1a", "CLASS-INCLUSION", "Taxonomic")
    assert one.definition == "Y is a kind, or type, of X"
    assert [(p.input, p.output) for p in one.examples] == [("flower", "tulip"), ("emotion", "rage"), ("poem", "sonnet")]
    assert [(p.input, p.output) for p in one.pairs] == [("bird", "robin"), ("dog", "pug"), ("robin", "bird")]
    assert one.typicality == (60.0, 1.5, -40.0)
    assert (other.name, other.group, other.definition, len(other.examples)) == ("10c", "REFERENCE", "", 1)
    assert repr(one) == "RatedRelation(1a, CLASS-INCLUSION: Taxonomic, 3 rated pairs)"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"paradigms": "1, a, CLASS-INCLUSION\n"}, "paradigms.txt, line 1: expected class number"),
        ({"paradigms": PARADIGMS + "1, a, X, Y, a:b\n"}, "paradigms.txt, line 3: sub-category 1a is listed twice"),
        ({"paradigms": "1, a, X, Y, a:b:c\n"}, "paradigms.txt, line 1: 'a:b:c' is not a pair"),
        ({"paradigms": "9, z, X, Y, a:b\n"}, "Phase2Answers-9z.txt: no such file"),
        ({"1a": RATINGS + "robin:bird 3\n"}, "Phase2Answers-1a.txt, line 5: expected a score and a pair"),
        ({"1a": RATINGS + ' 3 "robin:bird"\n'}, "Phase2Answers-1a.txt, line 5: robin:bird is rated twice"),
        ({"1a": ' 3 "robin:bird"\n'}, "paradigms.txt, line 1: rated relation 1a: 3 examples, 1 pairs"),
        ({"10c": ' 3 "a:b"\n 3 "c:d"\n3 "e:f"'}, "paradigms.txt, line 2: rated relation 10c: all ratings are 3"),
    ],
)
def test_semeval_errors_have_file_and_line(tmp_path, files, message):
    with pytest.raises(LensFVError) as e:
        load_semeval(semeval(tmp_path, **files))
    assert message in str(e.value)


DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "semeval2012"


@pytest.mark.skipif(not DATA.is_dir(), reason="no SemEval-2012 Task 2 at ../shared/data")
def test_the_published_relations():
    relations = load_semeval(DATA)
    assert len(relations) == 79
    assert len({r.group for r in relations}) == 10
    assert sum(len(r.pairs) for r in relations) == 3218
    assert min(min(r.typicality) for r in relations) == -88.7
    assert max(max(r.typicality) for r in relations) == 90.0
    assert not any(set(r.examples) & set(r.pairs) for r in relations)
    directional = next(r for r in relations if r.name == "4d")
    assert (len(directional.pairs), directional.typicality.count(max(directional.typicality))) == (30, 1)
    assert ("left", "right") in [(p.input, p.output) for p in directional.examples]
    # alphabetical, not by rating
    assert all(list(r.typicality) != sorted(r.typicality, reverse=True) for r in relations)
