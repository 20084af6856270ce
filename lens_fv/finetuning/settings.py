"""Training settings for fine-tuning."""

from dataclasses import dataclass
from typing import Literal

from lens_fv.core.choices import Count, Natural, NonNegative, PartialShare, Positive, Seed, checked
from lens_fv.errors import LensFVError
from lens_fv.finetuning.regularizers import GuideConfig
from lens_fv.finetuning.regularizers.penalties import Fisher
from lens_fv.tasks import TODD, PromptTemplate


@checked
@dataclass(frozen=True)
class FinetuneConfig:
    """Training settings for fine-tuning. Defaults follow Jiang et al. (2025), except for the examples.

    Attributes:
        update: "lora" trains low-rank updates of the query and value projections (PEFT's choice for the architecture) on top of
            the frozen model; "full" trains all weights.
        rank: Rank of the low-rank updates.
        alpha: Scaling numerator of the low-rank updates.
        dropout: Dropout of the low-rank updates.
        learning_rate: Constant AdamW learning rate.
        batch_size: Number of examples per step.
        epochs: Number of passes over a task's examples.
        n_examples: Number of examples per task, drawn from its training pairs and instructions; pairs repeat only after all
            have been used.
        n_shots: Number of demonstrations per example.
        mixed: Train on all tasks at once, with their examples shuffled together, instead of in sequence.
        n_checkpoints: Number of checkpoints per task, or for the mixture; the last one is at the end.
        guide: Regularisation terms that preserve what a vector drives. They require low-rank updates and the tasks' vectors
            (see `finetune`).
        replay: Share of each task's examples replaced by examples of earlier tasks.
        ewc: Weight of elastic weight consolidation (Kirkpatrick et al. 2017) from the second task on, equal to half of their
            lambda.
        fisher: How weight importance is estimated: from squared gradients of each "batch" or each "example"; see
            `fisher_information`. Each needs its own `ewc`, because batch estimates are many times smaller.
        orthogonal: Weight of O-LoRA (Wang et al. 2023), in which each task has its own updates of rank `rank`, orthogonal to
            those of earlier tasks.
        template: Prompt template.
        seed: Seed of the splits, the examples and their order, and the initial low-rank updates.

    Raises:
        LensFVError: a value out of range, or incompatible options.

    Example:
        >>> lens_fv.FinetuneConfig(n_examples=8, batch_size=4).update
        'lora'
    """

    update: Literal["lora", "full"] = "lora"
    rank: Count = 8
    alpha: Count = 16
    dropout: PartialShare = 0.1
    learning_rate: Positive = 1e-4
    batch_size: Count = 32
    epochs: Count = 1
    n_examples: Count = 500
    n_shots: Natural = 0
    mixed: bool = False
    n_checkpoints: Count = 2
    guide: GuideConfig | None = None
    replay: PartialShare = 0.0
    ewc: NonNegative = 0.0
    fisher: Fisher = "batch"
    orthogonal: NonNegative = 0.0
    template: PromptTemplate = TODD
    seed: Seed = 0

    def __post_init__(self) -> None:
        if self.update == "full" and (self.active_guide or self.orthogonal):
            raise LensFVError(
                "fine-tune all weights with a guide or orthogonal updates: that takes low-rank updates, update='lora'"
            )
        if self.mixed and (self.active_guide or self.replay or self.ewc or self.orthogonal):
            raise LensFVError(
                "fine-tune on a mixture with a method that preserves earlier tasks: there are none; leave the method out"
            )

    @property
    def active_guide(self) -> GuideConfig | None:
        """The guide, unless all of its terms are disabled."""
        return None if self.guide is None or self.guide.idle else self.guide

    @checked
    def steps(self, n_tasks: Count = 1) -> int:
        """Return the number of optimiser steps for a number of tasks trained together."""
        return self.epochs * -(-n_tasks * self.n_examples // self.batch_size)
