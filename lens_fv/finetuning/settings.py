"""How a model is fine-tuned."""

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
    """What is trained, on what, and for how long; the defaults are those of Jiang et al. (2025), but for the examples.

    Attributes:
        method: "lora": low-rank updates of the query and value projections (PEFT's choice for the architecture), on top of the
            frozen model; "full": all weights.
        rank, alpha, dropout: of the low-rank updates.
        learning_rate: of AdamW, constant.
        batch_size: examples a step.
        epochs: passes over a task's examples.
        n_examples: of each task, drawn from its training pairs and its instructions, none again before all have been.
        n_shots: demonstrations in each.
        mixed: train all tasks at once, their examples shuffled together, instead of one after another.
        n_checkpoints: kept of each task, or of the mixture; the last one at its end.
        guide: terms that keep what a vector drives; takes low-rank updates, and the tasks' vectors (see `finetune`).
        replay: share of each task's examples that are examples of earlier tasks instead.
        ewc: weight of elastic weight consolidation (Kirkpatrick et al. 2017), from the second task on: half of their lambda.
        fisher: how it tells which weights matter: by squared gradients of "batch" or "example"; see `importance`. A weight goes
            with one of them: those of batches are many times smaller.
        orthogonal: weight of O-LoRA (Wang et al. 2023): each task has updates of `rank` of its own, orthogonal to those before.
        template: how prompts are written.
        seed: of splits, examples, their order, and of the low-rank updates' start.

    Raises:
        LensFVError: a number out of range, or parts that exclude each other.
    """

    method: Literal["lora", "full"] = "lora"
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
        if self.method == "full" and (self.guides or self.orthogonal):
            raise LensFVError(
                "guide, or keep orthogonal, fine-tuning of all weights: that takes low-rank updates, method='lora'"
            )
        if self.mixed and (self.guides or self.replay or self.ewc or self.orthogonal):
            raise LensFVError("keep earlier tasks while a mixture is trained: there are none; leave out what keeps them")

    @property
    def guides(self) -> bool:
        """Whether there is a guide with something to do."""
        return self.guide is not None and not self.guide.idle

    @checked
    def steps(self, n_tasks: Count = 1) -> int:
        """Of so many tasks trained together."""
        return self.epochs * -(-n_tasks * self.n_examples // self.batch_size)
