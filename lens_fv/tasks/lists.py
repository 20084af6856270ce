"""Tasks on lists of words, made from other tasks, for testing vector arithmetic."""

import random
from typing import Literal

from lens_fv.core.choices import Count, Seed, checked
from lens_fv.errors import LensFVError
from lens_fv.tasks.task import Pair, Task

Item = Literal["first", "middle", "last"]


@checked
def make_list_task(
    task: Task,
    item: Item,
    *,
    answer: Literal["copy", "output"] = "output",
    length: Count = 3,
    n_pairs: Count = 200,
    seed: Seed = 0,
) -> Task:
    """Make a task on lists of another task's inputs; the answer is one item or its output (Todd et al. 2024).

    The combinations of "first" and "last" with "copy" and "output" are the four terms of the vector equation `last_output =
    first_output + last_copy - first_copy`.

    Args:
        task: Task that provides the inputs for the lists.
        item: Position of the queried item; "middle" needs an odd length.
        answer: "output": the task's outputs for the item; "copy": the item itself.
        length: Number of items per list, all different.
        n_pairs: Number of lists; their queried items vary as much as the task allows.
        seed: Seed of the random lists.

    Raises:
        LensFVError: lists longer than the task, with fewer than two items, or without a middle.

    Example:
        >>> lists = lens_fv.tasks.make_list_task(lens_fv.load_task('antonym'), 'last', answer='copy', n_pairs=10)
        >>> lists.pairs[0].input.split(', ')[-1] == lists.pairs[0].output
        True
    """
    if not 2 <= length <= len(task):
        raise LensFVError(f"lists of {length} items from {task.name}: it has {len(task)} inputs; ask for 2 to {len(task)}")
    if item == "middle" and length % 2 == 0:
        raise LensFVError(f"the middle of lists of {length} items: there is none; give an odd length")
    rng = random.Random(seed)
    position = {"first": 0, "middle": length // 2, "last": length - 1}[item]
    order = rng.sample(task.pairs, len(task))
    pairs: dict[str, Pair] = {}
    for turn in range(20 * n_pairs):  # small tasks have few distinct lists: redraw duplicates
        queried = order[turn % len(order)]
        others = rng.sample([pair for pair in task.pairs if pair is not queried], length - 1)
        words = [pair.input for pair in (*others[:position], queried, *others[position:])]
        outputs = queried.outputs if answer == "output" else (queried.input,)
        pairs.setdefault(", ".join(words), Pair(", ".join(words), outputs))
        if len(pairs) == n_pairs:
            break
    else:
        raise LensFVError(f"{n_pairs} lists of {length} from {task.name}: there are too few different ones; ask for fewer")
    wording = "itself" if answer == "copy" else f"its {task.name}"
    return Task(
        name=f"{item}-of-{length}-{'copy' if answer == 'copy' else task.name}",
        pairs=tuple(pairs.values()),
        relation_words=(item, *(task.relation_words if answer == "output" else ("list",))),
        instructions=(
            f"Take the {item} item of the list and write {wording}.",
            f"For the {item} word of the list, give {wording}.",
            f"Look at the {item} of the {length} words and answer with {wording}.",
        ),
        group="form",
        family="lists",
        languages=task.languages,
        source=f"Made from {task.name}. {task.source}".strip(),
        licence=task.licence,
    )
