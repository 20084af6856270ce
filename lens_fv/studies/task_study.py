"""The full analysis of one relation: head ranking, extracted vector and tuned vector."""

from collections.abc import Mapping
from dataclasses import dataclass

from lens_fv.core.choices import Seed
from lens_fv.core.files import file_name
from lens_fv.heads import HeadRanking, rank_heads
from lens_fv.model.lens_model import LensModel
from lens_fv.tasks import Split, Task, split_pairs
from lens_fv.vectors import Decoded, FunctionVector, InjectionSweep, decode, extract, sweep_injection, tune

DEMO_TASKS = ("present-past", "singular-plural", "country-capital", "antonym")
"""Relations from morphology, world knowledge and lexical semantics that a small model partly knows."""


@dataclass(frozen=True)
class DemoSettings:
    """Settings of the demonstration; fewer prompts than the defaults of `rank_heads`, so that it takes minutes.

    Attributes:
        tasks: Names or files of the tasks.
        n_shots, n_clean, n_trials: Numbers of demonstrations per prompt, of clean prompts and of corrupted prompts.
        n_heads: Number of heads in the extracted vector.
        pairs, learning_rate, steps: Options of `tune`.
        layers: Candidate layers for tuning, as fractions of the depth.
        max_items: Maximum number of test pairs.
        seed: Seed of splits, prompts and random draws.
    """

    tasks: tuple[str, ...] = DEMO_TASKS
    n_shots: int = 5
    n_clean: int = 20
    n_trials: int = 8
    n_heads: int = 10
    pairs: int = 20
    layers: tuple[float, ...] = (0.3, 0.5)
    learning_rate: float = 0.1
    steps: int = 30
    max_items: int = 60
    seed: Seed = 0


@dataclass(frozen=True)
class TaskStudy:
    """Results for one relation."""

    task: Task
    split: Split
    ranking: HeadRanking
    by_layer: InjectionSweep
    extracted: FunctionVector
    tuned: FunctionVector
    decoded: Mapping[str, Decoded]

    @property
    def slug(self) -> str:
        """The task's name as a file name."""
        return file_name(self.task.name)


def study_task(model: LensModel, task: Task, settings: DemoSettings, *, progress: bool = False) -> TaskStudy:
    """Rank heads and extract, tune and decode vectors for one relation, without using its test split."""
    s = settings
    split = split_pairs(task, seed=s.seed)
    ranking = rank_heads(
        model,
        task,
        split=split,
        n_shots=s.n_shots,
        n_clean=s.n_clean,
        n_trials=s.n_trials,
        seed=s.seed,
        progress=progress,
    )
    extracted = extract(model, task, ranking, n_heads=s.n_heads, split=split)
    by_layer = sweep_injection(model, task, extracted, scales=[1.0], split=split)
    tuned = tune(
        model,
        task,
        init=extracted,
        n_pairs=s.pairs,
        layers=[round(depth * (model.n_layers - 1)) for depth in s.layers],
        learning_rate=s.learning_rate,
        steps=s.steps,
        split=split,
        seed=s.seed,
        progress=progress,
    )
    words = [*task.relation_words, *(pair.output for pair in split.test)]
    decoded = {name: decode(model, v, 10, words=words) for name, v in (("extracted", extracted), ("tuned", tuned))}
    return TaskStudy(task, split, ranking, by_layer, extracted, tuned, decoded)
