"""A transformers Trainer that uses a teacher's distributions as labels."""

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
    """Train on examples in the given order; a step's loss averages over targets within an example, then over examples.

    Args:
        examples: examples to train on.
        targets: targets of each example.
        order: example indices in training order, over all epochs. The learning rate schedule spans this whole order.
        pad: padding token id.
        settings: settings of the loss.
        **others: arguments of transformers' Trainer.
    """

    def __init__(
        self,
        examples: Sequence[DistillationExample],
        targets: Sequence[Target],
        order: Sequence[int],
        *,
        pad: int,
        settings: DistillConfig,
        **others: Any,
    ) -> None:
        def collated(at: Sequence[int]) -> dict[str, Any]:
            return {**padded([examples[i].student for i in at], pad), "at": torch.tensor(at)}

        # with examples left over, Trainer would take one more step after the last
        taught = order[: others["args"].max_steps * settings.batch_size]
        super().__init__(train_dataset=cast(Any, taught), data_collator=collated, **others)
        self._examples, self._targets, self._said, self._n = examples, targets, settings, len(order)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Keep the given order: it is shuffled already, and resuming from a checkpoint relies on it."""
        return SequentialSampler(cast(Sized, self.train_dataset if train_dataset is None else train_dataset))

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        """Apply weight decay to all parameters, as torch's AdamW does. Trainer would exempt biases and norms."""
        return [name for name, _ in model.named_parameters()]

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:  # noqa: ARG002
        """See transformers. The schedule spans the whole order, even if the run stops early."""
        return super().create_scheduler(-(-self._n // self._said.batch_size), optimizer)

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:  # noqa: ARG002
        """See transformers."""
        logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        at = inputs["at"].tolist()
        losses = example_losses(logits, [self._examples[i] for i in at], [self._targets[i] for i in at], self._said)
        # Trainer divides by the number of micro-batches per step; examples of a short last one must not get more weight.
        size = self._said.batch_size
        of_step = min(size, self._n - self.state.global_step * size)
        return losses.sum() / of_step * getattr(self, "current_gradient_accumulation_steps", 1)


class NewOptimizer(TrainerCallback):
    """Reset the optimiser's moments at regular intervals, as if it were created anew.

    Args:
        steps: number of steps between resets.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """See transformers."""
        if state.global_step % self._steps == 0:
            kwargs["optimizer"].state.clear()


def example_losses(
    logits: Tensor, examples: Sequence[DistillationExample], targets: Sequence[Target], settings: DistillConfig
) -> Tensor:
    """Compute each example's mean loss over its targets, in nats per target, from logits of right-padded inputs."""
    losses: list[Tensor] = []
    for row, example, target in zip(logits, examples, targets, strict=True):
        predictions = row[[t - 1 for t in example.targets]]  # a token is predicted from the one before it
        losses.append(divergence(predictions, target, direction=settings.direction, temperature=settings.temperature).mean())
    return torch.stack(losses)
