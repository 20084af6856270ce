"""Folders appear whole or not at all."""

import pytest

from lens_fv.errors import LensFVError
from lens_fv.files import new_folder


def test_a_folder_appears_when_it_is_full(tmp_path):
    place = tmp_path / "above" / "model"
    with new_folder(place, what="export") as beside:
        (beside / "weights").write_text("all of them")
        assert not place.exists()
    assert sorted(file.name for file in place.parent.rglob("*")) == ["model", "weights"]
    assert place.stat().st_mode == place.parent.stat().st_mode  # others may read it who may read folders beside it
    with pytest.raises(LensFVError, match=r"export to .*model: it is there already"), new_folder(place, what="export"):
        pass
    assert (place / "weights").read_text() == "all of them"


def test_what_fails_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "model", what="export") as beside:
        (beside / "weights").write_text("some of them")
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_to_is_said(tmp_path):
    (tmp_path / "file").write_text("no folder")
    at = tmp_path / "file" / "model"
    with pytest.raises(LensFVError, match=r"export to .*model: .*; choose a folder that can"), new_folder(at, what="export"):
        pass
