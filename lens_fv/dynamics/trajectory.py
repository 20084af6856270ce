"""Trajectories: measurements of tasks and their vectors over a fine-tuning run."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.core.artefact import Artefact
from lens_fv.core.choices import Level, checked
from lens_fv.core.statistics import Estimate, estimate, proportion
from lens_fv.core.tables import DataFrame, data_frame
from lens_fv.dynamics.measurement import STEERING_VECTORS, CheckpointMeasurement
from lens_fv.errors import LensFVError
from lens_fv.heads import Overlap, head_overlap

Measure = Literal["accuracy", "in_context", "instruction", "knowledge", "alignment", "with_vector", "with_random", "with_other"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
_STEERED = {f"with_{name}": name for name in STEERING_VECTORS}
_COLUMNS: dict[str, str] = {
    "in_context": "in_context_accuracy",
    "instruction": "instruction_logprob_nats_per_token",
    "knowledge": "knowledge_logprob_nats_per_token",
    "with_vector": "accuracy_with_vector",
    "with_random": "accuracy_with_random",
    "with_other": "accuracy_with_other",
}
"""Columns of measures whose names do not say what they are."""


@dataclass(frozen=True, repr=False, eq=False)
class Trajectory(Artefact):
    """Measurements at successive checkpoints of a run, starting with the initial model; see `CheckpointMeasurement`.

    Attributes:
        checkpoints: Checkpoint names.
        steps: Number of steps since the start of the run.
        tasks: Names of the measured tasks.
        correct, instructed, in_context, knowledge, steered, alignment, head_writes, head_writes_now, answer_rank, effects: As
            in `CheckpointMeasurement`, with the checkpoints as an additional first axis.
        majority: As in `CheckpointMeasurement`.

    Example:
        >>> trajectory = lens_fv.track_checkpoints(capable_model, run, probes)
        >>> trajectory.similarity().shape  # cosine of each vector to its initial value: checkpoints and tasks
        torch.Size([4, 3])
    """

    _MADE_BY: ClassVar[str] = "track_checkpoints"

    checkpoints: tuple[str, ...]
    steps: tuple[int, ...]
    tasks: tuple[str, ...]
    correct: Float[Tensor, "checkpoints tasks items"]
    instructed: Float[Tensor, "checkpoints tasks items"]
    in_context: Float[Tensor, "checkpoints tasks items"]
    knowledge: Float[Tensor, "checkpoints tasks items"]
    steered: Float[Tensor, "checkpoints tasks 3 items"]
    alignment: Float[Tensor, "checkpoints tasks read_items"]
    head_writes: Float[Tensor, "checkpoints tasks heads d_model"]
    head_writes_now: Float[Tensor, "checkpoints tasks heads d_model"]
    answer_rank: Float[Tensor, "checkpoints tasks layers"]
    effects: Float[Tensor, "checkpoints tasks layers heads_of_a_layer"]
    majority: Float[Tensor, " tasks"] | None = None

    @classmethod
    def of(cls, measurements: Sequence[CheckpointMeasurement]) -> "Trajectory":
        """Combine the measurements of several checkpoints.

        Raises:
            LensFVError: no measurements, or measurements with different probes.
        """
        probes = {(*m.provenance.options["probes"], m.provenance.seed) for m in measurements}
        if len(probes) != 1:
            raise LensFVError(f"trajectory of {len(measurements)} checkpoints: give at least one, all with the same probes")
        about = ("provenance", "checkpoints", "steps", "tasks", "majority")
        measures = [field.name for field in fields(cls) if field.name not in about]
        return cls(
            provenance=replace(measurements[0].provenance, method="trajectory"),
            checkpoints=tuple(m.name for m in measurements),
            steps=tuple(m.step for m in measurements),
            tasks=measurements[0].tasks,
            majority=next((m.majority for m in measurements if m.majority is not None), None),
            **{key: torch.stack([getattr(m, key) for m in measurements]) for key in measures},
        )

    @checked
    def items(self, measure: Measure) -> Float[Tensor, "checkpoints tasks items"]:
        """Return a measure for each item; `accuracy` and measures with an added vector are 0 or 1. NaN marks missing items."""
        if measure in _STEERED:
            return self.steered[:, :, STEERING_VECTORS.index(_STEERED[measure])]
        return {
            "accuracy": self.correct,
            "in_context": self.in_context,
            "instruction": self.instructed,
            "knowledge": self.knowledge,
            "alignment": self.alignment,
        }[measure]

    @checked
    def curve(self, measure: Measure, task: str, *, change: bool = False) -> dict[int, Estimate]:
        """Return a measure of one task by step, where it was measured, with bootstrap intervals over items.

        Args:
            measure: One of `Measure`.
            task: One of `tasks`.
            change: Subtract each item's initial value.

        Raises:
            LensFVError: a task that was not measured.
        """
        if task not in self.tasks:
            raise LensFVError(f"curve of {task}: the trajectory has the tasks {', '.join(self.tasks)}")
        values = self.items(measure)[:, self.tasks.index(task)]
        values = values[:, ~values[0].isnan()]
        if change:
            values = values - values[:1]
        measured = {step: row for step, row in zip(self.steps, values) if not bool(row.isnan().any())}
        return {step: estimate(row.tolist(), seed=self.provenance.seed) for step, row in measured.items()}

    @property
    def accuracy(self) -> Float[Tensor, "checkpoints tasks"]:
        """Share of items answered correctly after the instruction."""
        return self.correct.nanmean(-1)

    @checked
    def present(self, *, level: Level = 0.95) -> list[bool]:
        """Return whether the model could do each task initially; only such tasks can be kept or lost.

        A task is present if the lower bound of the Wilson interval of its initial accuracy exceeds its `majority`, or 0 if that
        is unknown.

        Args:
            level: Confidence level of the interval.
        """
        majority = torch.zeros(len(self.tasks)) if self.majority is None else self.majority
        initial = [row[~row.isnan()] for row in self.correct[0]]
        lows = [proportion(int(row.sum()), len(row), level=level).ci_low for row in initial]
        return [low > baseline for low, baseline in zip(lows, majority.tolist(), strict=True)]

    @property
    def stage_ends(self) -> list[int]:
        """Indices of the initial model and of each stage's end, where tasks were also measured in context.

        Stages that were not tracked to their end have no index.
        """
        measured = (~self.in_context.isnan()).flatten(1).any(1).tolist()
        stages = [name.rsplit("/", 1)[0] for name in self.checkpoints]
        last = {stage: m for m, stage in enumerate(stages) if measured[m]}
        return list(last.values())

    @property
    def vectors(self) -> Float[Tensor, "checkpoints tasks d_model"]:
        """Sum of the outputs of the vector's heads, through the initial output projections."""
        return self.head_writes[:, :, : self._n_heads].sum(2)

    def similarity(self, *, current_projection: bool = False) -> Float[Tensor, "checkpoints tasks"]:
        """Compute the cosine between each vector and its initial value.

        Args:
            current_projection: Use each checkpoint's output projections instead of the initial ones. The results
                differ only where training changed the projections.
        """
        vectors = self.head_writes_now[:, :, : self._n_heads].sum(2) if current_projection else self.vectors
        return torch.cosine_similarity(vectors, vectors[:1], dim=-1)

    def distance(self) -> Float[Tensor, "checkpoints tasks"]:
        """Compute the norm of each vector's change, relative to the norm of its initial value."""
        vectors = self.vectors
        return (vectors - vectors[:1]).norm(dim=-1) / vectors[:1].norm(dim=-1)

    def head_similarity(self) -> tuple[Float[Tensor, "checkpoints tasks heads"], Float[Tensor, "checkpoints tasks heads"]]:
        """Compute the cosine between each head's output and its initial value.

        Returns:
            The cosines of the vector's heads, and those of as many random heads.
        """
        cosines = torch.cosine_similarity(self.head_writes, self.head_writes[:1], dim=-1)
        return cosines[..., : self._n_heads], cosines[..., self._n_heads :]

    def head_overlaps(self) -> list[list[Overlap | None]]:
        """Compare the strongest heads at each checkpoint with the initial ones, as many as the vector has.

        Returns:
            The overlaps by checkpoint and task; None where heads were not ranked.
        """
        layers, heads = self.effects.shape[2:]

        def compare(initial: Tensor, effects: Tensor) -> Overlap | None:
            if bool(initial.isnan().any() or effects.isnan().any()):
                return None
            initial_top, top = (
                {divmod(int(i), heads) for i in values.flatten().topk(self._n_heads).indices} for values in (initial, effects)
            )
            return head_overlap(initial_top, top, layers * heads)

        return [[compare(*pair) for pair in zip(self.effects[0], checkpoint)] for checkpoint in self.effects]

    @property
    def _n_heads(self) -> int:
        """Number of the vector's heads; as many random heads follow them."""
        return self.head_writes.shape[2] // 2

    def records(self) -> list[dict[str, Any]]:
        """One record per checkpoint and task: every measure, what became of the vector, and the overlap of its heads.

        What was not measured at a checkpoint (`in_context` within a task, head overlaps) is None there.
        """
        own, control = self.head_similarity()
        curves = {(measure, task): self.curve(measure, task) for measure in MEASURES for task in self.tasks}
        values = {
            "cosine": self.similarity(),
            "distance": self.distance(),
            "head_cosine": own.mean(-1),
            "control_head_cosine": control.mean(-1),
        }
        overlaps = self.head_overlaps()
        return [
            {"checkpoint": name, "step": step, "task": task}
            | {measure: curves[measure, task].get(step) for measure in MEASURES}
            | {column: float(value[m, t]) for column, value in values.items()}
            | {"head_overlap": overlaps[m][t]}
            for m, (name, step) in enumerate(zip(self.checkpoints, self.steps, strict=True))
            for t, task in enumerate(self.tasks)
        ]

    def to_dataframe(self) -> DataFrame:
        """One row per checkpoint and task: every measure with its interval over items, and what became of the vector.

        Columns that were not measured at a checkpoint (`in_context` within a task, head overlaps) are empty there.
        """
        rows: list[dict[str, Any]] = []
        for record in self.records():
            overlap = record.pop("head_overlap")
            columns = {_COLUMNS.get(name, name): value for name, value in record.items()}
            overlaps = {"head_overlap": overlap and overlap.jaccard, "head_overlap_p_value": overlap and overlap.p_value}
            rows.append(columns | overlaps)
        return data_frame(rows)

    def summary(self) -> dict[str, str]:
        """See `Artefact.summary`."""
        values = zip(*(row.tolist() for row in (self.accuracy[0], self.accuracy[-1], self.similarity()[-1])), strict=True)
        rows = {
            task: f"accuracy {before:.2f} to {after:.2f}, vector's cosine {cosine:.2f}"
            for task, (before, after, cosine) in zip(self.tasks, values, strict=True)
        }
        return super().summary() | {"checkpoints": str(len(self.checkpoints)), "steps": str(self.steps[-1])} | rows
