"""Results are made once, by whichever process comes first, and none is lost."""

import subprocess
import sys

import pytest

from lens_fv.core.store import ResultStore, differences
from lens_fv.errors import LensFVError

TWENTY = """
import sys
from pathlib import Path
from lens_fv.core.store import ResultStore
path, own = Path(sys.argv[1]), sys.argv[2]
records = ResultStore(path)
for i in range(20):
    records.get_or_compute(f"{own}/{i}", lambda: i)
    records.get_or_compute(f"both/{i}", lambda: own)
"""


def never():
    raise AssertionError("made again")


def test_what_is_there_is_not_made_again(tmp_path):
    path = tmp_path / "above" / "part.json"
    assert ResultStore(path).get_or_compute("a", lambda: {"at": (1, 2)}) == {"at": [1, 2]}
    again = ResultStore(path)
    assert again.get_or_compute("a", never) == {"at": [1, 2]}
    assert ("a" in again, "b" in again, len(again), dict(again.items())) == (True, False, 1, {"a": {"at": [1, 2]}})


def test_what_another_made_meanwhile_is_kept_and_not_made_again(tmp_path):
    one, other = ResultStore(tmp_path / "part.json"), ResultStore(tmp_path / "part.json")
    one.get_or_compute("a", lambda: 1)
    assert other.get_or_compute("a", never) == 1

    def slowly():
        one.get_or_compute("b", lambda: 2)
        return 3

    assert other.get_or_compute("b", slowly) == 2  # the first that is written counts
    other.get_or_compute("c", lambda: 4)
    assert dict(ResultStore(tmp_path / "part.json").items()) == {"a": 1, "b": 2, "c": 4}


def test_processes_lose_nothing_of_each_other(tmp_path):
    path = tmp_path / "part.json"
    runs = [subprocess.Popen([sys.executable, "-c", TWENTY, str(path), own]) for own in ("one", "two")]
    assert [run.wait(60) for run in runs] == [0, 0]
    found = dict(ResultStore(path).items())
    assert {key: value for key, value in found.items() if not key.startswith("both/")} == {
        f"{own}/{i}": i for own in ("one", "two") for i in range(20)
    }
    assert {found[f"both/{i}"] for i in range(20)} <= {"one", "two"}
    assert len(found) == 60


@pytest.mark.parametrize(("text", "said"), [("{", "not valid JSON"), ("[1]", "expected an object")])
def test_what_is_no_such_file_is_said(tmp_path, text, said):
    (tmp_path / "part.json").write_text(text)
    with pytest.raises(LensFVError, match=said):
        ResultStore(tmp_path / "part.json")
    assert (tmp_path / "part.json").read_text() == text


def test_differences_say_what_was_and_what_is_asked():
    before = {"rank": 8, "guide": {"heads": 1.0, "steer": 1.0}, "same": [1], "gone": None, "tasks": ["x" * 100]}
    asked = {"rank": 8, "guide": {"heads": 2.0, "steer": 1.0}, "same": [1], "new": 3, "tasks": ["y"]}
    assert differences(before, asked) == [
        "guide.heads 1.0 (requested: 2.0)",
        f"tasks ['{'x' * 75}... (requested: ['y'])",
        "new None (requested: 3)",
    ]
    assert differences(before, before) == []
