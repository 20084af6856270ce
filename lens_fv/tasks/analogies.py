"""Analogies A:B::C:D, and their construction from a relation's pairs."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from lens_fv.core.choices import Count, Natural, Seed, checked
from lens_fv.core.texts import nfc
from lens_fv.errors import LensFVError
from lens_fv.tasks.task import Pair, Task


@dataclass(frozen=True)
class Analogy:
    """A is to B as C is to D.

    Attributes:
        a, b, c: The three given words.
        d: Acceptable answers, the most common first.
        choices: Candidate answers of a multiple-choice question, including the primary answer; empty: not multiple choice.
        stems: The word that each choice completes; empty: `c` for all. In SAT questions every choice has its own stem.
        relation: Name of the analogy's relation, if known.

    Raises:
        LensFVError: a text is empty, or the correct answer is not among the choices.
    """

    a: str
    b: str
    c: str
    d: tuple[str, ...]
    choices: tuple[str, ...] = ()
    stems: tuple[str, ...] = ()
    relation: str = ""

    def __post_init__(self) -> None:
        if not self.d or not all(text.strip() for text in (self.a, self.b, self.c, *self.d, *self.choices, *self.stems)):
            raise LensFVError(f"analogy {self}: a, b, c, the answer and all choices have to be texts that are not empty")
        if self.stems and len(self.stems) != len(self.choices):
            raise LensFVError(f"analogy {self}: {len(self.choices)} choices have {len(self.stems)} stems; give each its own")
        if self.choices and (self.candidates.count((self.c, self.d[0])) != 1 or len(set(self.candidates)) < len(self.choices)):
            raise LensFVError(f"analogy {self}: its choices have to differ and hold the answer; found {list(self.choices)}")

    def __str__(self) -> str:
        return f"{self.a}:{self.b}::{self.c}:{self.d[0] if self.d else ''}"

    @property
    def candidates(self) -> tuple[tuple[str, str], ...]:
        """Pairs of stem and choice."""
        return tuple(zip(self.stems or (self.c,) * len(self.choices), self.choices, strict=True))

    @property
    def source(self) -> Pair:
        """The source pair A:B."""
        return Pair(self.a, (self.b,))

    @property
    def target(self) -> Pair:
        """The target pair: C and its acceptable answers."""
        return Pair(self.c, self.d)


@checked
def make_analogies(
    task: Task,
    sources: Sequence[Pair],
    targets: Sequence[Pair],
    *,
    n: Count | None = None,
    n_choices: Natural = 2,
    seed: Seed = 0,
) -> list[Analogy]:
    """Make analogies of one relation from each target, a randomly drawn source and wrong answers of other pairs.

    Args:
        task: Task that gives the analogies their relation name.
        sources: Pairs to draw A:B from.
        targets: Pairs to use as C:D.
        n: Number of analogies; default: every target once.
        n_choices: Number of choices per analogy, including the correct one; fewer if too few answers are distinct; 0: none.
        seed: Seed of the random draws.

    Raises:
        LensFVError: no target has a source other than itself.

    Example:
        >>> split = lens_fv.split_pairs(task, seed=0)
        >>> len(lens_fv.make_analogies(task, split.train, split.test, n=3))
        3
    """
    rng = random.Random(seed)
    analogies: list[Analogy] = []
    for target in rng.sample(list(targets), len(targets))[:n]:
        answers = set(map(nfc, target.outputs))
        usable = [p for p in sources if nfc(p.input) != nfc(target.input) and nfc(p.output) not in answers]
        if not usable:
            continue
        source = rng.choice(usable)
        excluded = answers | {nfc(text) for text in (target.input, source.output, source.input)}
        others = {nfc(pair.output): pair.output for pair in (*targets, *sources)}  # one choice per distinct word
        wrong = sorted(text for key, text in others.items() if key not in excluded)
        choices = [target.output, *rng.sample(wrong, min(n_choices - 1, len(wrong)))] if n_choices > 1 else []
        rng.shuffle(choices)
        analogies.append(
            Analogy(
                source.input,
                source.output,
                target.input,
                target.outputs,
                tuple(choices) if len(choices) > 1 else (),
                relation=task.name,
            )
        )
    if not analogies:
        raise LensFVError(f"analogies of {task.name}: no target has a source of another answer; give more pairs")
    return analogies
