"""Tasks on lists of words, made from other tasks: what arithmetic on vectors is tried on."""

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
    """Lists of a task's inputs, answered by what the task makes of one item, or by the item itself (Todd et al. 2024).

    With "first" and "last", "copy" and "output" they are the four corners of `last_output = first_output + last_copy -
    first_copy` on vectors.

    Args:
        task: whose inputs fill the lists.
        item: which one is asked about; "middle" needs an odd length.
        answer: "output": the task's outputs for it; "copy": the item as it is.
        length: items a list, all different.
        n_pairs: lists; their asked items are as different as the task allows.
        seed: of the lists.

    Raises:
        LensFVError: lists longer than the task, of fewer than two items, or without a middle.
    """
    if not 2 <= length <= len(task):
        raise LensFVError(f"lists of {length} items from {task.name}: it has {len(task)} inputs; ask for 2 to {len(task)}")
    if item == "middle" and length % 2 == 0:
        raise LensFVError(f"the middle of lists of {length} items: there is none; give an odd length")
    rng = random.Random(seed)
    at = {"first": 0, "middle": length // 2, "last": length - 1}[item]
    order = rng.sample(task.pairs, len(task))
    pairs: dict[str, Pair] = {}
    for turn in range(20 * n_pairs):  # small tasks have few lists: those that come twice are drawn again
        asked = order[turn % len(order)]
        others = rng.sample([pair for pair in task.pairs if pair is not asked], length - 1)
        words = [pair.input for pair in (*others[:at], asked, *others[at:])]
        outputs = asked.outputs if answer == "output" else (asked.input,)
        pairs.setdefault(", ".join(words), Pair(", ".join(words), outputs))
        if len(pairs) == n_pairs:
            break
    else:
        raise LensFVError(f"{n_pairs} lists of {length} from {task.name}: there are too few different ones; ask for fewer")
    what = "itself" if answer == "copy" else f"its {task.name}"
    return Task(
        name=f"{item}-of-{length}-{'copy' if answer == 'copy' else task.name}",
        pairs=tuple(pairs.values()),
        relation_words=(item, *(task.relation_words if answer == "output" else ("list",))),
        instructions=(
            f"Take the {item} item of the list and write {what}.",
            f"For the {item} word of the list, give {what}.",
            f"Look at the {item} of the {length} words and answer with {what}.",
        ),
        group="form",
        family="lists",
        languages=task.languages,
        source=f"Made from {task.name}. {task.source}".strip(),
        licence=task.licence,
    )
