import random
from itertools import combinations

import pytest
from hypothesis import given, strategies as st

from lens_fv.core.texts import nfc, nfd
from lens_fv.errors import LensFVError
from lens_fv.tasks import Pair, Split, Task, split_pairs

NUMBERS = Task("numbers", tuple(Pair(f"in{i:03}", (f"out{i}",)) for i in range(100)))
WORDS = [f"w{i}" for i in range(12)]
ROW = st.tuples(st.sampled_from(WORDS), st.lists(st.sampled_from(WORDS), min_size=1, max_size=3, unique=True))


def same_fact(a: Pair, b: Pair) -> bool:
    return a.input == b.input or (a.input in b.outputs and b.input in a.outputs)


@given(drawn=st.lists(ROW, min_size=1, max_size=25), seed=st.integers(0, 1000))
def test_no_fact_is_in_two_parts_and_no_row_is_lost(drawn: list[tuple[str, list[str]]], seed: int):
    rows = [Pair(given, tuple(outputs)) for given, outputs in drawn]
    try:
        split = split_pairs(Task("any", tuple(rows)), seed=seed)
    except LensFVError:
        # Refused only if there are fewer than three groups; count them another way: by merging until nothing changes.
        groups = [{row} for row in rows]
        for a, b in combinations(range(len(rows)), 2):
            if same_fact(rows[a], rows[b]):
                joined = next(g for g in groups if rows[a] in g) | next(g for g in groups if rows[b] in g)
                groups = [g for g in groups if not g & joined] + [joined]
        assert len(groups) < 3
        return
    parts = [split.train, split.validation, split.test]
    key = lambda pair: (pair.input, pair.outputs)  # noqa: E731
    assert sorted([*split.train, *split.validation, *split.test], key=key) == sorted(rows, key=key)
    assert all(parts)
    for one, other in combinations(parts, 2):
        assert not any(same_fact(a, b) for a in one for b in other)


def test_a_relation_that_is_its_own_reverse():
    words = [(f"a{i}", f"b{i}") for i in range(30)]
    rows = [Pair(a, (b,)) for a, b in words] + [Pair(b.upper(), (a,)) for a, b in words]
    for seed in range(20):
        split = split_pairs(Task("antonyms", tuple(rows)), seed=seed)
        parts = [{frozenset((p.input.lower(), p.output)) for p in part} for part in (split.train, split.test)]
        assert not parts[0] & parts[1]
        assert len(split.test) == 18  # both directions of 9 facts: 30 % of 60 rows


def test_shares():
    split = split_pairs(NUMBERS)
    assert [len(part) for part in (split.train, split.validation, split.test)] == [55, 15, 30]
    split = split_pairs(NUMBERS, test_fraction=0.21, validation_fraction=0.09)
    assert [len(part) for part in (split.train, split.validation, split.test)] == [70, 9, 21]
    assert repr(split) == "Split(70 train, 9 validation, 21 test)"


def test_the_seed_decides_and_the_order_of_rows_does_not():
    rows = list(NUMBERS.pairs)
    random.Random(0).shuffle(rows)
    assert split_pairs(Task("shuffled", tuple(rows)), seed=7) == split_pairs(NUMBERS, seed=7)
    assert split_pairs(NUMBERS, seed=7) != split_pairs(NUMBERS, seed=8)


def test_the_split_is_the_same_on_every_machine():
    task = Task("letters", tuple(Pair(letter, (letter.upper(),)) for letter in "abcdefghij"))
    letters = ["".join(p.input for p in part) for part in vars(split_pairs(task, seed=1)).values()]
    assert letters == ["fhjig", "ad", "cbe"]


def test_n_train_limits_train_and_leaves_the_rest():
    whole, limited = split_pairs(NUMBERS, seed=2), split_pairs(NUMBERS, seed=2, n_train=20)
    assert limited == Split(train=whole.train[:20], validation=whole.validation, test=whole.test)
    inputs = [pair.input for pair in limited.train]
    assert inputs != sorted(inputs)  # a draw, not the head of the list


@pytest.mark.parametrize("n_train", [0, -1, 56])
def test_more_train_pairs_than_there_are_is_said(n_train: int):
    with pytest.raises(LensFVError, match=rf"asked for {n_train} train pairs of task 'numbers': .* has 55 of 100"):
        split_pairs(NUMBERS, n_train=n_train)


@pytest.mark.parametrize("n", [3, 4, 5])
def test_three_facts_are_enough_for_three_parts(n: int):
    split = split_pairs(Task("few", NUMBERS.pairs[:n]))
    assert min(len(split.train), len(split.validation), len(split.test)) >= 1


def test_too_few_facts_are_said():
    with pytest.raises(LensFVError, match=r"task 'one' has 1 pair in 1 independent group; .* at least 3"):
        split_pairs(Task("one", NUMBERS.pairs[:1]))
    rows = (Pair("hot", ("cold",)), Pair("cold", ("hot",)), Pair("up", ("down",)), Pair("down", ("up",)))
    with pytest.raises(LensFVError, match="task 'two' has 4 pairs in 2 independent groups"):
        split_pairs(Task("two", rows))


@pytest.mark.parametrize(
    "shares", [{"test_fraction": 0.0}, {"validation_fraction": 0.0}, {"test_fraction": 0.9}, {"test_fraction": -1.0}]
)
def test_shares_that_leave_a_part_empty_are_refused(shares: dict[str, float]):
    with pytest.raises(LensFVError, match="sum below 1"):
        split_pairs(NUMBERS, **shares)


def test_a_word_in_two_encodings_is_in_one_part():
    """A task that was not read from a file may hold both: neither side may know the other's answer."""
    letters = "\u00e0\u00e9\u00ee\u00f5\u00fc\u00f1\u00c5\u01d8"
    words = [f"mot{i}{a}" for i in range(3) for a in letters]
    rows = [Pair(nfc(word), (f"a{i}",)) for i, word in enumerate(words)]
    rows += [Pair(nfd(word.upper()), (f"b{i}",)) for i, word in enumerate(words)]
    rows += [Pair(f"x{i}", (nfc(f"y\u00e9{i}"),)) for i in range(8)] + [Pair(nfd(f"y\u00e9{i}"), (f"x{i}",)) for i in range(8)]
    for seed in range(5):
        split = split_pairs(Task("words", tuple(rows)), seed=seed)
        parts = [split.train, split.validation, split.test]
        said = [{nfc(text).casefold() for pair in part for text in (pair.input, *pair.outputs)} for part in parts]
        assert not any(one & other for one, other in combinations(said, 2))
        assert sorted(pair.input for part in parts for pair in part) == sorted(pair.input for pair in rows)  # as written
        assert split == split_pairs(Task("words", tuple(reversed(rows))), seed=seed)
