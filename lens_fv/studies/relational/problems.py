"""Analogies of the built-in relations, for learning maps and for reporting."""

from collections.abc import Sequence

from lens_fv.core.choices import Count, Natural, Seed
from lens_fv.errors import LensFVError
from lens_fv.tasks import Analogy, Pair, list_tasks, load_task, make_analogies, split_pairs

HELD_OUT_EVERY = 5


def training_analogies(
    names: Sequence[str], *, max_per_relation: Count = 12, seed: Seed = 0
) -> tuple[list[Analogy], list[Analogy]]:
    """Analogies of built-in relations for training, and those of every fifth relation for selection.

    A:B are training pairs and C:D are validation pairs; test pairs are not used.

    Args:
        names: Names of relations; those that are not built in are ignored.
        max_per_relation: Maximum number of analogies per relation.
        seed: Seed of splits and random draws.

    Raises:
        LensFVError: there are fewer than five built-in relations.
    """
    known = [name for name in names if name in list_tasks()]
    if len(known) < HELD_OUT_EVERY:
        raise LensFVError(
            f"analogies of {len(known)} built-in relations: learning and choosing takes at least {HELD_OUT_EVERY}"
        )
    parts: tuple[list[Analogy], list[Analogy]] = ([], [])
    for i, name in enumerate(known):
        task = load_task(name)
        split = split_pairs(task, seed=seed)
        parts[i % HELD_OUT_EVERY == HELD_OUT_EVERY - 1].extend(
            make_analogies(task, split.train, split.validation, n=max_per_relation, seed=seed)
        )
    return parts


def reported_analogies(
    names: Sequence[str], *, max_per_relation: Count = 10, n_choices: Natural = 2, seed: Seed = 0
) -> list[Analogy]:
    """Analogies for reporting: A:B are training pairs, C:D are test pairs, and wrong choices are other test answers.

    Args:
        names: Names of relations, or files of pairs.
        max_per_relation: Maximum number of analogies per relation.
        n_choices: See `make_analogies`.
        seed: Seed of splits and random draws.
    """
    analogies: list[Analogy] = []
    for name in names:
        task = load_task(name)
        split = split_pairs(task, seed=seed)
        analogies += make_analogies(task, split.train, split.test, n=max_per_relation, n_choices=n_choices, seed=seed)
    return analogies


def several_sources(analogies: Sequence[Analogy], n: int, *, seed: int = 0) -> list[list[Pair]]:
    """For each analogy, its A:B and n - 1 more training pairs of its relation that contain neither C nor an acceptable answer.

    Args:
        analogies: Analogies of built-in relations.
        n: Number of source pairs per analogy; fewer if the relation has too few.
        seed: Seed of the splits.
    """
    known = {a.relation: split_pairs(load_task(a.relation), seed=seed).train for a in analogies}
    return [
        [a.source, *(p for p in known[a.relation] if p.input not in (a.a, a.c) and p.output not in (a.b, *a.d))][:n]
        for a in analogies
    ]
