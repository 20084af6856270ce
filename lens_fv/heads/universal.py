"""Universal heads: effects averaged over all tasks that the model can do."""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from lens_fv.core.artefact import Provenance, require_shape
from lens_fv.core.choices import Count, Level, Natural, checked
from lens_fv.core.options import takes_options
from lens_fv.core.progress import progress_bar
from lens_fv.core.statistics import Estimate
from lens_fv.core.tables import DataFrame, data_frame
from lens_fv.errors import LensFVError
from lens_fv.heads.competence import Competence, competence, queries_summary
from lens_fv.heads.options import RankingConfig
from lens_fv.heads.protocol import rank_heads
from lens_fv.heads.ranking import Effects, HeadRanking, Metric
from lens_fv.heads.statistics import Correction
from lens_fv.model.lens_model import LensModel
from lens_fv.tasks import Task, build_prompts, split_pairs


class TaskRow(NamedTuple):
    """A task's accuracy after demonstrations, the majority baseline, and whether the task was kept."""

    task: str
    kept: bool
    accuracy: Estimate
    majority: float


@checked
@dataclass(frozen=True, repr=False, eq=False)
class UniversalHeads(Effects):
    """Head effects averaged over tasks (Todd et al. 2024).

    Samples are tasks, so intervals, p-values and reliability describe generalisation to other tasks of this kind.

    Attributes:
        effects: Mean indirect effect of every head on every kept task.
        tasks: Names of all tasks that were tried.
        accuracy: Accuracy of each task (the four values of an `Estimate`); see `Competence`.
        majority: Majority baseline that the accuracy had to exceed; see `Competence`.
        metric: See `rank_heads`.
    """

    tasks: tuple[str, ...]
    accuracy: Float[Tensor, "tasks 4"]
    majority: Float[Tensor, " tasks"]
    metric: Metric

    def __post_init__(self) -> None:
        """Check that tasks and effects match."""
        super().__post_init__()
        require_shape("universal heads' accuracy", self.accuracy, (len(self.tasks), 4))
        require_shape("universal heads' majority", self.majority, (len(self.tasks),))
        if len(self.effects) != len(self.kept):
            raise LensFVError(f"universal heads: effects on {len(self.effects)} tasks, {len(self.kept)} are kept")

    @property
    def rows(self) -> list[TaskRow]:
        """Every task, kept or dropped, with its accuracy and baseline."""
        accuracies = [Estimate(mean, low, high, int(n)) for mean, low, high, n in self.accuracy.tolist()]
        return [
            TaskRow(task, accuracy.mean > majority, accuracy, majority)
            for task, accuracy, majority in zip(self.tasks, accuracies, self.majority.tolist(), strict=True)
        ]

    @property
    def kept(self) -> tuple[str, ...]:
        """The tasks that the model can do, in the order of `effects`."""
        return tuple(row.task for row in self.rows if row.kept)

    @property
    def dropped(self) -> tuple[str, ...]:
        """The tasks on which the model is no better than a constant answer."""
        return tuple(row.task for row in self.rows if not row.kept)

    @checked
    def interval(self, *, level: Level = 0.95, resamples: Natural = 0) -> Float[Tensor, "2 layers units"]:  # noqa: ARG002
        """Student's t interval over tasks; a bootstrap over so few samples would be too narrow."""
        n = len(self.effects)
        if n < 2:
            return self.effects.repeat(2, 1, 1)
        half = float(stats.t.ppf((1 + level) / 2, n - 1)) * self.effects.std(0) / n**0.5
        return torch.stack([self.mean - half, self.mean + half])

    @checked
    def to_dataframe(self, *, correction: Correction | None = "holm", by: Literal["head", "task"] = "head") -> DataFrame:
        """One row per head (see `HeadRanking.to_dataframe`), or per task: accuracy, baseline and whether it was kept."""
        return data_frame(self.rows) if by == "task" else super().to_dataframe(correction=correction)

    def summary(self) -> dict[str, str]:
        """See `Artefact.summary`."""
        lines = super().summary() | queries_summary(self.provenance)
        for row in self.rows:
            verdict = "kept" if row.kept else "dropped"
            lines[row.task] = f"{verdict}: accuracy {row.accuracy}, majority {row.majority:.2f}"
        return lines


@checked
@dataclass(frozen=True, kw_only=True)
class UniversalHeadsConfig(RankingConfig):
    """Options of `universal_heads`: those of `rank_heads`, and which tasks to keep.

    Attributes:
        max_items: Maximum number of validation pairs on which a task's accuracy is measured.
    """

    max_items: Count = 100


@takes_options(UniversalHeadsConfig)
def universal_heads(model: LensModel, tasks: Sequence[Task], options: UniversalHeadsConfig) -> UniversalHeads:
    """Rank heads on every task where the model beats a constant answer, and average over tasks (Todd et al. 2024).

    With `folder`, every task's accuracy and ranking are stored there, so that an interrupted run resumes. Provenance records
    the numbers of queries, summed over the kept tasks.

    Args:
        model: Model to rank.
        tasks: Tasks; each is split by `split_pairs(task, seed=seed)` and queried on validation pairs.
        options: Keywords of `rank_heads` except `split`, and `max_items`; see `UniversalHeadsConfig`.

    Raises:
        LensFVError: no task is given, two have the same name, a split is given, the model can do none of the tasks, or
            `rank_heads` raises.

    Example:
        >>> options = {'instruction': 'Please do0 it', 'corruption': 'instruction', 'n_shots': 0}
        >>> universal = lens_fv.universal_heads(capable_model, capable_tasks, n_clean=3, n_trials=3, **options)
        >>> universal.tasks
        ('task0', 'task1', 'task2')
    """
    names = tuple(task.name for task in tasks)
    if not tasks or len(set(names)) < len(names):
        raise LensFVError(f"universal heads of {len(names)} tasks of {len(set(names))} names: give tasks of different names")
    if options.split is not None:
        raise LensFVError("universal heads on one split: every task is split by itself; leave the split out")
    splits = [split_pairs(task, seed=options.seed) for task in tasks]
    for split in splits:  # fail before anything runs
        build_prompts(split.validation, split.train, n_shots=options.n_shots)
    accuracies: list[Competence] = []
    rankings: list[HeadRanking] = []
    n_prompts = options.n_clean + options.n_trials
    with progress_bar("universal heads", len(tasks) * (1 + n_prompts), show=options.progress) as bar:
        tick = options.tick or bar
        for task, split in zip(tasks, splits, strict=True):
            accuracy = competence(
                model,
                task,
                items=split.validation[: options.max_items],
                split=split,
                n_shots=options.n_shots,
                template=options.template,
                instruction=options.instruction,
                seed=options.seed,
                folder=options.folder,
            )
            accuracies.append(accuracy)
            tick()
            with _ticks(tick, n_prompts) as ranking_tick:
                if accuracy.beats_majority:
                    rankings.append(rank_heads(model, task, options, split=split, tick=ranking_tick, progress=False))
    if not rankings:
        numbers = ", ".join(f"{c.provenance.task} {c.accuracy.mean:.2f} (majority {c.majority:.2f})" for c in accuracies)
        raise LensFVError(
            f"universal heads of {model.name}: it does none of the tasks: {numbers}; give easier tasks or more shots"
        )
    return UniversalHeads(
        provenance=_joint_provenance([ranking.provenance for ranking in rankings], options.max_items),
        effects=torch.stack([ranking.mean for ranking in rankings]),
        tasks=names,
        accuracy=torch.tensor([c.accuracy for c in accuracies], dtype=torch.float64),
        majority=torch.tensor([c.majority for c in accuracies], dtype=torch.float64),
        metric=rankings[0].metric,
        unit=rankings[0].unit,
    )


def _joint_provenance(rankings: Sequence[Provenance], max_items: int) -> Provenance:
    """Provenance of the mean of several rankings; numbers of queries are summed."""
    options = dict(rankings[0].options)
    for name in {"n_queries", "n_items"} & options.keys():
        options[name] = sum(ranking.options[name] for ranking in rankings)
    return replace(
        rankings[0],
        task=", ".join(ranking.task for ranking in rankings),
        task_hash=_digest(ranking.task_hash for ranking in rankings),
        prompts_hash=_digest(ranking.prompts_hash for ranking in rankings),
        method="causal mediation, averaged over tasks",
        options={**options, "max_items": max_items},
    )


def _digest(hashes: Iterable[str]) -> str:
    return sha256("".join(hashes).encode()).hexdigest()[:16]


@contextmanager
def _ticks(tick: Callable[[], None], n: int) -> Generator[Callable[[], None], None, None]:
    """A task's `n` steps of the progress bar; those not used, because the task was loaded or dropped, are added at the end."""
    unused = iter(range(n))

    def step() -> None:
        if next(unused, None) is not None:
            tick()

    yield step
    for _ in unused:
        tick()
