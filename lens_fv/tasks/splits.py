"""Splits into training, validation and test pairs that share no fact."""

import random
from dataclasses import dataclass

from lens_fv.core.choices import Finite, Seed, Whole, checked
from lens_fv.core.texts import nfc, nfd
from lens_fv.errors import LensFVError
from lens_fv.tasks.task import Pair, Task


@dataclass(frozen=True, repr=False)
class Split:
    """Three parts of a task: for demonstrations and tuning, for model selection, and for reporting.

    Example:
        >>> split = lens_fv.split_pairs(task, seed=0)
        >>> len(split.train) + len(split.validation) + len(split.test) == len(task)
        True
    """

    train: tuple[Pair, ...]
    validation: tuple[Pair, ...]
    test: tuple[Pair, ...]

    def __repr__(self) -> str:
        return f"Split({len(self.train)} train, {len(self.validation)} validation, {len(self.test)} test)"


@checked
def split_pairs(
    task: Task,
    *,
    seed: Seed = 0,
    test_fraction: Finite = 0.30,
    validation_fraction: Finite = 0.15,
    n_train: Whole | None = None,
) -> Split:
    """Split a task's pairs at random, by facts rather than by rows.

    `a -> b` and `b -> a` count as one fact, as do rows with the same input (ignoring case and Unicode normalisation); all pairs
    of a fact stay in one part, spelled as they are. The same pairs and seed give the same split on every machine, regardless of
    the order of the rows.

    Args:
        task: Task to split.
        seed: Seed of the random order of the facts.
        test_fraction: Fraction of the pairs, default 0.30.
        validation_fraction: Fraction of the pairs, default 0.15; the rest is for training.
        n_train: Number of training pairs to keep, default all; the other parts are unchanged.

    Raises:
        LensFVError: fewer than three facts, shares that leave a part empty, or fewer training pairs than `n_train`.

    Example:
        >>> split = lens_fv.split_pairs(task, seed=0, n_train=5)
        >>> len(split.train)
        5
    """
    if not (test_fraction > 0 and validation_fraction > 0 and test_fraction + validation_fraction < 1):
        raise LensFVError(
            f"split with test_fraction={test_fraction}, validation_fraction={validation_fraction}: "
            "each must be above 0, and their sum below 1"
        )
    groups = _groups(task.pairs)
    if len(groups) < 3:
        raise LensFVError(
            f"task {task.name!r} has {len(task)} pair{'s' * (len(task) != 1)} in {len(groups)} independent group"
            f"{'s' * (len(groups) != 1)}; a split into train, validation and test needs at least 3 unrelated pairs"
        )
    random.Random(seed).shuffle(groups)
    test_pairs = _take(groups, round(test_fraction * len(task)), leave=2)
    validation_pairs = _take(groups, round(validation_fraction * len(task)), leave=1)
    train_pairs = _take(groups, len(task), leave=0)
    if n_train is not None and not 1 <= n_train <= len(train_pairs):
        raise LensFVError(
            f"asked for {n_train} train pairs of task {task.name!r}: its train part has {len(train_pairs)} of "
            f"{len(task)} pairs; ask for 1 to {len(train_pairs)}"
        )
    return Split(train=train_pairs[:n_train], validation=validation_pairs, test=test_pairs)


def _take(groups: list[list[Pair]], n_pairs: int, *, leave: int) -> tuple[Pair, ...]:
    """Remove groups from the end until they hold `n_pairs` (at least one group), leaving some for the other parts."""
    pairs: list[Pair] = []
    while len(groups) > leave and len(pairs) < max(n_pairs, 1):
        pairs += groups.pop()
    return tuple(pairs)


def _groups(pairs: tuple[Pair, ...]) -> list[list[Pair]]:
    """Group pairs that state the same fact, in an order that depends only on the pairs."""
    outputs: dict[str, set[str]] = {}
    rows: dict[str, list[Pair]] = {}
    for pair in sorted(pairs, key=lambda pair: (pair.input, pair.outputs)):
        word = _folded(pair.input)
        rows.setdefault(word, []).append(pair)
        outputs.setdefault(word, set()).update(map(_folded, pair.outputs))
    groups: list[list[Pair]] = []
    while rows:
        group: list[Pair] = []
        waiting = [next(iter(rows))]
        while waiting:
            word = waiting.pop()
            group += rows.pop(word, [])
            waiting += sorted(other for other in outputs[word] if other in rows and word in outputs[other])
        groups.append(group)
    return groups


def _folded(text: str) -> str:
    """Normalise a word's case and composition (canonical caseless matching, Unicode 3.13)."""
    return nfc(nfd(text).casefold())
