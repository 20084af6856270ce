"""Folders appear whole or not at all, and one process works in one at a time."""

import subprocess
import sys
from contextlib import nullcontext

import pytest

from lens_fv.core.files import atomic_folder, folder_lock
from lens_fv.errors import LensFVError


def test_a_folder_appears_when_it_is_full(tmp_path):
    place = tmp_path / "above" / "model"
    with atomic_folder(place, what="export") as temporary:
        (temporary / "weights").write_text("all of them")
        assert not place.exists()
    assert sorted(file.name for file in place.parent.rglob("*")) == ["model", "weights"]
    assert place.stat().st_mode == place.parent.stat().st_mode  # others may read it who may read the folders next to it
    with pytest.raises(LensFVError, match=r"export to .*model: it is there already"), atomic_folder(place, what="export"):
        pass
    assert (place / "weights").read_text() == "all of them"


def test_what_fails_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "model", what="export") as temporary:
        (temporary / "weights").write_text("some of them")
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_to_is_said(tmp_path):
    (tmp_path / "file").write_text("no folder")
    at = tmp_path / "file" / "model"
    with pytest.raises(LensFVError, match=r"export to .*model: .*; choose a folder that can"), atomic_folder(at, what="export"):
        pass


def test_nobody_else_works_in_a_folder_that_is_held(tmp_path):
    place = tmp_path / "above" / "library"
    elsewhere = (
        "import sys; from lens_fv.core.files import folder_lock\nwith folder_lock(sys.argv[1], what='build a library'): pass"
    )
    for inside, refused in ((folder_lock(place, what="build a library"), True), (nullcontext(), False)):
        with inside:
            said = subprocess.run([sys.executable, "-c", elsewhere, str(place)], capture_output=True, text=True, check=False)
        assert ("library: another process works there; wait for it" in said.stderr) == refused
        assert bool(said.returncode) == refused


def test_where_nothing_can_be_written_nothing_is_held(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with folder_lock(tmp_path / "file" / "library", what="build a library"):
        assert [file.name for file in tmp_path.iterdir()] == ["file"]
