"""A task that a tiny random model can be asked."""

from lens_fv.tasks import Pair, Task

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def toy_task(n: int = 40, name: str = "toy") -> Task:
    """`n` short made-up pairs, some with two acceptable answers."""
    words = [LETTERS[i % 26] + LETTERS[(7 * i + 3) % 26] for i in range(2 * n)]
    words = list(dict.fromkeys(f"{word}{i}" for i, word in enumerate(words)))
    pairs = [Pair(words[2 * i], (words[2 * i + 1], "x") if i % 5 == 0 else (words[2 * i + 1],)) for i in range(n)]
    return Task(name, tuple(pairs), relation_words=("letter",), instructions=("Say it.",))
