"""Recipes for a library's vectors: tuned on pairs, or extracted from heads."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from lens_fv.core.choices import Count, Natural, Positive, Seed, Whole, checked
from lens_fv.heads import rank_heads
from lens_fv.model.lens_model import LensModel
from lens_fv.tasks import Pair, PromptTemplate, Split, Task
from lens_fv.vectors import FunctionVector, extract, tune_many
from lens_fv.vectors.examples import MAX_VALIDATION
from lens_fv.vectors.options import LEARNING_RATES

TOGETHER = 8
"""Number of relations trained in the same passes; more bring no speed and lose more work on an interruption."""


@checked
@dataclass(frozen=True)
class TuneRecipe:
    """Vectors fine-tuned on pairs from zero, several relations in parallel.

    Attributes:
        layer: Layer after which all vectors are added; default: the middle one.
        n_pairs: Number of training pairs; tasks with fewer use all of them.
        steps: See `tune`.
        learning_rate: See `tune`.
        shuffled: Give every training and validation pair another pair's answer, as a control that sees the relation's words
            but not the relation.
        max_validation: Maximum number of validation pairs for model selection.
    """

    layer: Whole | None = None
    n_pairs: Count = 20
    steps: Count = 40
    learning_rate: Positive | tuple[Positive, ...] = LEARNING_RATES
    shuffled: bool = False
    max_validation: Count = MAX_VALIDATION

    def resolved(self, model: LensModel) -> "TuneRecipe":
        """Fill in the defaults that depend on the model.

        Raises:
            LensFVError: no such layer in the model.
        """
        return replace(self, layer=model.layer_at(0.5) if self.layer is None else model.check_layer(self.layer))

    def parts(self, tasks: Sequence[Task], splits: Mapping[str, Split]) -> Iterator[list[Task]]:
        """Group the tasks that are made together: those with equal numbers of training pairs."""

        def pairs(task: Task) -> int:
            return self._pairs(splits[task.name])

        for _, alike in groupby(sorted(tasks, key=pairs, reverse=True), pairs):
            members = list(alike)
            yield from (members[begin : begin + TOGETHER] for begin in range(0, len(members), TOGETHER))

    @checked
    def make(
        self, model: LensModel, tasks: Sequence[Task], splits: Mapping[str, Split], *, template: PromptTemplate, seed: Seed
    ) -> list[FunctionVector]:
        """Make the vectors of one group of tasks.

        Raises:
            LensFVError: any error from `tune_many`.
        """
        used = {task.name: with_fewer_choices(splits[task.name], self.max_validation) for task in tasks}
        if self.shuffled:
            used = {name: with_wrong_answers(split, seed) for name, split in used.items()}
        vectors = tune_many(
            model,
            tasks,
            layers=self.layer,
            n_pairs=self._pairs(used[tasks[0].name]),
            steps=self.steps,
            learning_rate=self.learning_rate,
            split=used,
            template=template,
            seed=seed,
        )
        if not self.shuffled:
            return vectors
        return [replace(v, provenance=replace(v.provenance, method="tuned_shuffled")) for v in vectors]

    def _pairs(self, split: Split) -> int:
        return min(self.n_pairs, len(split.train))


@checked
@dataclass(frozen=True)
class ExtractRecipe:
    """Vectors that sum the outputs of the heads found by causal mediation (Todd et al. 2024).

    Attributes:
        layer: Layer after which all vectors are added; default: for each relation, the layer with the highest log-probability
            of its validation answers. Composites need one layer for all.
        n_heads: See `extract`.
        n_shots: See `rank_heads`.
        n_clean: See `rank_heads`.
        n_trials: See `rank_heads`.
        max_validation: Maximum number of validation pairs for choosing the layer.
    """

    layer: Whole | None = None
    n_heads: Count = 10
    n_shots: Natural = 10
    n_clean: Count = 100
    n_trials: Count = 25
    max_validation: Count = MAX_VALIDATION

    def resolved(self, model: LensModel) -> "ExtractRecipe":
        """See `TuneRecipe`."""
        return self if self.layer is None else replace(self, layer=model.check_layer(self.layer))

    def parts(self, tasks: Sequence[Task], splits: Mapping[str, Split]) -> Iterator[list[Task]]:  # noqa: ARG002
        """See `TuneRecipe`; here each task is a group of its own."""
        return ([task] for task in tasks)

    @checked
    def make(
        self, model: LensModel, tasks: Sequence[Task], splits: Mapping[str, Split], *, template: PromptTemplate, seed: Seed
    ) -> list[FunctionVector]:
        """Make the vectors of one group of tasks.

        Raises:
            LensFVError: any error from `rank_heads` or `extract`.
        """
        vectors: list[FunctionVector] = []
        for task in tasks:
            split = splits[task.name]
            ranking = rank_heads(
                model,
                task,
                split=split,
                n_shots=self.n_shots,
                n_clean=self.n_clean,
                n_trials=self.n_trials,
                template=template,
                seed=seed,
            )
            split = with_fewer_choices(split, self.max_validation)
            vectors.append(
                extract(model, task, ranking, n_heads=self.n_heads, layer=self.layer, split=split, template=template)
            )
        return vectors


Recipe = TuneRecipe | ExtractRecipe


def with_fewer_choices(split: Split, most: int) -> Split:
    """Return the split with at most this many validation pairs."""
    return replace(split, validation=split.validation[:most])


def with_wrong_answers(split: Split, seed: int) -> Split:
    """Exchange the answers of training and validation pairs, so that none keeps its own (if all answers differ)."""
    rng = random.Random(f"{seed}/wrong answers")

    def wrong(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
        order = rng.sample(range(len(pairs)), len(pairs))
        # Passing answers around a ring in random order leaves none in place.
        source = dict(zip(order, [*order[1:], *order[:1]], strict=True))
        return tuple(replace(pair, outputs=pairs[source[i]].outputs) for i, pair in enumerate(pairs))

    return replace(split, train=wrong(split.train), validation=wrong(split.validation))
