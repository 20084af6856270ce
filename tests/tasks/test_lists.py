"""Lists of words made from other tasks."""

import pytest

from lens_fv.errors import LensFVError
from lens_fv.tasks import load_task, make_list_task
from tests.helpers import toy_task

ANTONYM = load_task("antonym")


@pytest.mark.parametrize(("item", "at"), [("first", 0), ("middle", 1), ("last", 2)])
@pytest.mark.parametrize("answer", ["copy", "output"])
def test_the_asked_item_is_answered(item: str, at: int, answer: str):
    task = make_list_task(ANTONYM, item, answer=answer, n_pairs=300, seed=3)
    outputs = {pair.input: pair.outputs for pair in ANTONYM.pairs}
    for pair in task.pairs:
        words = pair.input.split(", ")
        assert len(words) == len(set(words)) == 3
        assert pair.outputs == ((words[at],) if answer == "copy" else outputs[words[at]])
    assert len(task) == 300
    assert len({pair.input.split(", ")[at] for pair in task.pairs}) == len(ANTONYM)


def test_the_seed_decides_and_copy_and_output_ask_about_the_same_lists():
    copy, output = (make_list_task(ANTONYM, "last", answer=answer) for answer in ("copy", "output"))
    assert [pair.input for pair in copy.pairs] == [pair.input for pair in output.pairs]
    assert (
        make_list_task(ANTONYM, "last").fingerprint == output.fingerprint != make_list_task(ANTONYM, "last", seed=1).fingerprint
    )
    assert (output.name, output.group, output.family) == ("last-of-3-antonym", "form", "lists")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"item": "middle", "length": 4}, "the middle of lists of 4 items: there is none"),
        ({"item": "first", "length": 1}, "ask for 2 to"),
        ({"item": "first", "length": 999}, "lists of 999 items from"),
        ({"item": "first", "n_pairs": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_made_is_said(options: dict, said: str):
    with pytest.raises(LensFVError, match=said):
        make_list_task(ANTONYM, **options)


def test_a_small_task_has_only_so_many_lists():
    task = toy_task()
    small = type(task)("small", task.pairs[:3])
    assert len(make_list_task(small, "first", length=3, n_pairs=6)) == 6
    with pytest.raises(LensFVError, match="7 lists of 3 from small: there are too few different ones"):
        make_list_task(small, "first", length=3, n_pairs=7)
