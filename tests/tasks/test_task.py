import jaxtyping
import pytest

from lens_fv.errors import LensFVError
from lens_fv.tasks import Pair, Task

HOT, BIG = Pair("hot", ("cold",)), Pair("big", ("small", "little"))


def test_the_first_output_is_the_primary_one():
    assert BIG.output == "small"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("", ("cold",)), "input is empty"),
        ((" \n", ("cold",)), "input is empty"),
        (("hot", ()), "outputs that are not empty"),
        (("hot", ("cold", "")), "outputs that are not empty"),
    ],
)
def test_a_pair_without_text_is_refused(arguments: tuple, said: str):
    with pytest.raises(LensFVError, match=said):
        Pair(*arguments)


def test_a_text_as_outputs_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # a user has no type checker at run time
    with pytest.raises(LensFVError, match="outputs is the text 'cold'; give a tuple"):
        Pair("hot", "cold")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pairs": ()}, "'mine' has no pairs"),
        ({"name": " "}, "no name"),
        ({"instructions": ("Give the opposite.", "")}, "empty relation word or instruction"),
        ({"relation_words": (" ",)}, "empty relation word or instruction"),
    ],
)
def test_a_task_without_content_is_refused(change: dict, said: str):
    with pytest.raises(LensFVError, match=said):
        Task(**{"name": "mine", "pairs": (HOT,), **change})


def test_repr_is_one_line_that_counts():
    inflection = Task("mine", (HOT, BIG), group="morphology", family="inflection")
    assert repr(inflection) == "Task(mine: 2 pairs, morphology, inflection, 'hot' -> 'cold')"
    assert repr(Task("mine", (HOT, BIG), group="form")) == "Task(mine: 2 pairs, form, 'hot' -> 'cold')"
    assert repr(Task("mine", (HOT,))) == "Task(mine: 1 pair, 'hot' -> 'cold')"
    assert len(Task("mine", (HOT, BIG))) == 2


def test_fingerprint_is_of_the_content_and_of_nothing_else():
    task = Task("mine", (HOT, BIG), relation_words=("opposite",))
    assert task.fingerprint == "fb3e9bfe40fb940f"  # written in artefacts, so it must not change between versions
    assert Task("other", (BIG, HOT), relation_words=("opposite",), source="a book").fingerprint == task.fingerprint
    different = [
        Task("mine", (HOT,), relation_words=("opposite",)),
        Task("mine", (HOT, Pair("big", ("little", "small"))), relation_words=("opposite",)),
        Task("mine", (HOT, Pair("big", ("small",))), relation_words=("opposite",)),
        Task("mine", (HOT, BIG)),
        Task("mine", (HOT, BIG), relation_words=("opposite",), instructions=("Give the opposite.",)),
    ]
    assert len({other.fingerprint for other in [task, *different]}) == 6


def test_majority_counts_primary_outputs():
    pairs = [Pair("Rome", ("Italy",)), Pair("Paris", ("France",)), Pair("Lyon", ("France",)), Pair("Nice", ("France",))]
    assert Task("cities", tuple(pairs)).majority == ("France", 0.75)
