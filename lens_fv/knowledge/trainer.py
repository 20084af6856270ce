"""transformers' Trainer with a teacher's distributions for labels."""

from collections.abc import Sequence, Sized
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainerCallback

from lens_fv.finetuning.loop import padded
from lens_fv.knowledge.examples import DistillationExample
from lens_fv.knowledge.settings import DistillConfig
from lens_fv.knowledge.targets import Target, divergence


class DistillationTrainer(Trainer):
    """Takes lessons in the order given; a step's loss is the mean over its lessons of the mean over their targets.

    Args:
        lessons: what is read.
        targets: what is to be said, of each lesson.
        order: indices of lessons, every time that they are taught; the learning rate falls over all of it.
        pad: token id of padding.
        settings: of the loss.
        **others: see transformers.
    """

    def __init__(
        self,
        lessons: Sequence[DistillationExample],
        targets: Sequence[Target],
        order: Sequence[int],
        *,
        pad: int,
        settings: DistillConfig,
        **others: Any,
    ) -> None:
        def collated(at: Sequence[int]) -> dict[str, Any]:
            return {**padded([lessons[i].student for i in at], pad), "at": torch.tensor(at)}

        # behind its last step Trainer would take one more if there were something to take
        taught = order[: others["args"].max_steps * settings.batch_size]
        super().__init__(train_dataset=cast(Any, taught), data_collator=collated, **others)
        self._lessons, self._targets, self._said, self._n = lessons, targets, settings, len(order)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """In order: it was shuffled before, and going on from a checkpoint finds its place."""
        return SequentialSampler(cast(Sized, self.train_dataset if train_dataset is None else train_dataset))

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        """All: as torch's AdamW has it. Trainer would spare biases and norms."""
        return [name for name, _ in model.named_parameters()]

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:  # noqa: ARG002
        """See transformers. Where a run stops on the way makes no difference."""
        return super().create_scheduler(-(-self._n // self._said.batch_size), optimizer)

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:  # noqa: ARG002
        """See transformers."""
        logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        at = inputs["at"].tolist()
        losses = example_losses(logits, [self._lessons[i] for i in at], [self._targets[i] for i in at], self._said)
        # Trainer divides by how many parts the step has; what a step's last part lacks must not count for more.
        size = self._said.batch_size
        of_step = min(size, self._n - self.state.global_step * size)
        return losses.sum() / of_step * getattr(self, "current_gradient_accumulation_steps", 1)


class NewOptimizer(TrainerCallback):
    """Has the optimizer forget all moments after every so many steps, as if it were a new one.

    Args:
        steps: of each.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """See transformers."""
        if state.global_step % self._steps == 0:
            kwargs["optimizer"].state.clear()


def example_losses(
    logits: Tensor, lessons: Sequence[DistillationExample], targets: Sequence[Target], settings: DistillConfig
) -> Tensor:
    """Each lesson's loss, of logits behind its tokens (padded on the right), in nats a target."""
    losses: list[Tensor] = []
    for row, lesson, target in zip(logits, lessons, targets, strict=True):
        behind = row[[t - 1 for t in lesson.targets]]  # a token is predicted from the one before it
        losses.append(divergence(behind, target, direction=settings.direction, temperature=settings.temperature).mean())
    return torch.stack(losses)
