"""The walks of CONTRIBUTING.md name each file once, and functions and classes that stand or are used in that file."""

import re
from pathlib import Path

import pytest

import lens_fv

ROOT = Path(lens_fv.__file__).parent
TEXT = (ROOT.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
WALKS = TEXT.partition("## Three walks")[2].partition("\n## ")[0].split("\n### ")[1:]


def steps(walk: str) -> list[tuple[list[str], list[str]]]:
    """The files of each step, and the names that it mentions."""
    rows = re.findall(r"^\| \d+ \| (.+?) \| (.+) \|$", walk, re.MULTILINE)
    return [(re.findall(r"`([\w/]+\.py)`", files), re.findall(r"`([A-Za-z_.]+)`", text)) for files, text in rows]


@pytest.mark.parametrize("walk", WALKS, ids=lambda walk: walk.partition("\n")[0])
def test_a_walk_is_true_and_opens_no_file_twice(walk):
    files = [file for names, _ in steps(walk) for file in names]
    assert len(files) == len(set(files)) > 10
    for names, mentioned in steps(walk):
        source = "".join((ROOT / name).read_text(encoding="utf-8") for name in names)
        absent = [name for name in mentioned if not re.search(rf"\b{name.rpartition('.')[2]}\b", source)]
        assert absent == [], names


def test_there_are_three_walks():
    assert [len(steps(walk)) > 10 for walk in WALKS] == [True] * 3
