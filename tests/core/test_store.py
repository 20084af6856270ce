"""The settings of a run are recorded, and a resumed run has to have the same."""

import json

import pytest

from lens_fv.core.store import check_settings, differences, recorded_settings
from lens_fv.errors import LensFVError


def test_a_resumed_run_has_the_settings_that_it_began_with(tmp_path):
    path = tmp_path / "above" / "settings.json"
    assert recorded_settings(path) == {}
    check_settings(path, {"at": (1, 2), "seeds": [0]})
    assert recorded_settings(path) == {"at": [1, 2], "seeds": [0]}
    check_settings(path, {"at": (1, 2), "seeds": [0, 1]}, may_grow="seeds")
    assert json.loads(path.read_text())["seeds"] == [0, 1]
    check_settings(path, {"at": (3, 4), "seeds": [0, 1]}, may_change=("at",))
    with pytest.raises(LensFVError, match=r"it was run with seeds \[0, 1\] \(requested: \[1\]\)"):
        check_settings(path, {"at": (3, 4), "seeds": [1]}, may_grow="seeds")
    assert recorded_settings(path) == {"at": [3, 4], "seeds": [0, 1]}


@pytest.mark.parametrize(("text", "problem"), [("{", "not valid JSON"), ("[1]", "expected an object")])
def test_a_damaged_settings_file_is_refused_and_kept(tmp_path, text, problem):
    path = tmp_path / "settings.json"
    path.write_text(text)
    with pytest.raises(LensFVError, match=problem):
        check_settings(path, {"seeds": [0]})
    assert path.read_text() == text


def test_differences_state_what_was_and_what_is_requested():
    before = {"rank": 8, "guide": {"heads": 1.0, "steer": 1.0}, "same": [1], "gone": None, "tasks": ["x" * 100]}
    requested = {"rank": 8, "guide": {"heads": 2.0, "steer": 1.0}, "same": [1], "new": 3, "tasks": ["y"]}
    assert differences(before, requested) == [
        "guide.heads 1.0 (requested: 2.0)",
        f"tasks ['{'x' * 75}... (requested: ['y'])",
        "new None (requested: 3)",
    ]
    assert differences(before, before) == []
