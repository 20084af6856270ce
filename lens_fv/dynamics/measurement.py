"""What is measured at one checkpoint of a fine-tuning run."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from lens_fv.core.artefact import Artefact
from lens_fv.core.tables import DataFrame, data_frame

STEERING_VECTORS = ("vector", "random", "other")
"""Vectors added to instructed prompts: the task's initial vector, a random one, and another task's; all of the same norm."""


@dataclass(frozen=True, repr=False, eq=False)
class CheckpointMeasurement(Artefact):
    """Results of all probes at one checkpoint. NaN pads tasks with fewer items than others.

    Attributes:
        name: Checkpoint name, or "0" for the initial model.
        step: Number of steps since the start of the run.
        tasks: Task name of each probe.
        correct: Whether greedy decoding produces an acceptable answer after the instruction.
        instructed: Log-probability of the answer after the instruction, in nats per token.
        in_context: As `correct`, with demonstrations; NaN if not measured.
        knowledge: Log-probability of the answer in the cloze, in nats per token.
        steered: As `correct`, with a vector added; see `STEERING_VECTORS`.
        alignment: Cosine between the initial vector and the residual stream at the vector's layer; NaN pads as above.
        head_writes: Mean output of each of the probe's heads at the end of the instructed prompts, through the initial output
            projections.
        head_writes_now: The same through the checkpoint's output projections.
        answer_rank: Rank of the answer's first token (0 is the most likely) read off the residual stream after each layer;
            median over items.
        effects: Mean indirect effect of every head on the probe's contrast at this checkpoint; NaN if heads were not ranked.
        majority: Accuracy of always giving the most frequent answer; None in older files.
    """

    name: str
    step: int
    tasks: tuple[str, ...]
    correct: Float[Tensor, "tasks items"]
    instructed: Float[Tensor, "tasks items"]
    in_context: Float[Tensor, "tasks items"]
    knowledge: Float[Tensor, "tasks items"]
    steered: Float[Tensor, "tasks 3 items"]
    alignment: Float[Tensor, "tasks read_items"]
    head_writes: Float[Tensor, "tasks heads d_model"]
    head_writes_now: Float[Tensor, "tasks heads d_model"]
    answer_rank: Float[Tensor, "tasks layers"]
    effects: Float[Tensor, "tasks layers heads_of_a_layer"]
    majority: Float[Tensor, " tasks"] | None = None

    def to_dataframe(self) -> DataFrame:
        """One row per task and item: accuracy after the instruction and in context, and log-probabilities of the answer."""
        return data_frame(
            {
                "checkpoint": self.name,
                "step": self.step,
                "task": task,
                "item": item,
                "accuracy": float(self.correct[t, item]),
                "in_context_accuracy": float(self.in_context[t, item]),
                "instruction_logprob_nats_per_token": float(self.instructed[t, item]),
                "knowledge_logprob_nats_per_token": float(self.knowledge[t, item]),
            }
            for t, task in enumerate(self.tasks)
            for item in range(self.correct.shape[1])
            if not bool(self.correct[t, item].isnan())
        )

    def summary(self) -> dict[str, str]:
        """See `Artefact.summary`."""
        rows = zip(self.tasks, self.correct.nanmean(-1).tolist(), strict=True)
        return super().summary() | {"checkpoint": self.name} | {task: f"accuracy {share:.2f}" for task, share in rows}
