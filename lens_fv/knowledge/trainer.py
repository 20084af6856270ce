"""A transformers Trainer that uses a teacher's distributions as labels, with its loss and its order of examples."""

import random
from collections.abc import Sequence, Sized
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainerCallback

from lens_fv.core.divergence import Direction, divergence as full_divergence
from lens_fv.finetuning.loop import padded
from lens_fv.finetuning.trainer import trainer_arguments
from lens_fv.knowledge.examples import DistillationExample, Target, with_rest
from lens_fv.knowledge.settings import DistillConfig

WINDOW = 8
"""Window size, in steps, within which examples are sorted by length."""


class DistillationTrainer(Trainer):
    """Train on examples in the given order; a step's loss averages over targets within an example, then over examples.

    The learning rate schedule spans the whole order, over all epochs, even if training stops after fewer steps.
    """

    def __init__(
        self,
        student: Any,
        examples: Sequence[DistillationExample],
        targets: Sequence[Target],
        order: Sequence[int],
        settings: DistillConfig,
        *,
        steps: int,
        folder: Path,
        save: bool,
        pad: int,
    ) -> None:
        def collate(indices: Sequence[int]) -> dict[str, Any]:
            return {**padded([examples[i].student for i in indices], pad), "indices": torch.tensor(indices)}

        size = settings.batch_size
        micro_batch_size = max(n for n in range(1, min(settings.micro_batch_size, size) + 1) if size % n == 0)
        super().__init__(
            model=student,
            args=trainer_arguments(
                folder,
                student.device.type,
                steps,
                -(-steps // settings.n_checkpoints) if save else None,
                per_device_train_batch_size=micro_batch_size,
                gradient_accumulation_steps=size // micro_batch_size,
                learning_rate=settings.rate,
                lr_scheduler_type=settings.schedule,
                weight_decay=settings.weight_decay,
                max_grad_norm=settings.max_grad_norm or 0.0,
                seed=settings.seed,
            ),
            train_dataset=cast(Any, order[: steps * size]),  # with examples left over, Trainer would take one more step
            data_collator=collate,
        )
        if settings.optimizer == "per_sentence":
            self.add_callback(NewOptimizer(settings.epochs))
        self._examples, self._targets, self._settings, self._n = examples, targets, settings, len(order)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Keep the given order: it is shuffled already, and resuming from a checkpoint relies on it."""
        return SequentialSampler(cast(Sized, self.train_dataset if train_dataset is None else train_dataset))

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        """Apply weight decay to all parameters, as torch's AdamW does. Trainer would exempt biases and norms."""
        return [name for name, _ in model.named_parameters()]

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:  # noqa: ARG002
        """See transformers."""
        return super().create_scheduler(-(-self._n // self._settings.batch_size), optimizer)

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:  # noqa: ARG002
        """See transformers."""
        logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        indices = inputs["indices"].tolist()
        examples, targets = [self._examples[i] for i in indices], [self._targets[i] for i in indices]
        losses = example_losses(logits, examples, targets, self._settings)
        # Trainer divides by the number of micro-batches per step; examples of a short last one must not get more weight.
        size = self._settings.batch_size
        n_in_step = min(size, self._n - self.state.global_step * size)
        return losses.sum() / n_in_step * getattr(self, "current_gradient_accumulation_steps", 1)


class NewOptimizer(TrainerCallback):
    """Reset the optimiser's moments after every `steps` steps, as if it were created anew."""

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


def divergence(
    logits: Float[Tensor, "targets vocab"], target: Target, *, direction: Direction, temperature: float
) -> Float[Tensor, " targets"]:
    """Compute the divergence between the student's distributions and the targets, in nats, times the squared temperature.

    The factor keeps gradients at the same scale for all temperatures (Hinton et al. 2015). With P the teacher and Q the
    student, "forward" is KL(P || Q), as in Padmanabhan et al. (2023), "reverse" is KL(Q || P), and "jsd" is the mean of the
    divergences of P and Q from their average. Tokens that were not kept enter only through their sum, so the result never
    exceeds the divergence of the full distributions.
    """
    q = (logits.float() / temperature).log_softmax(-1)
    p = target.logprobs.to(q.device)
    if target.tokens is not None:
        q = q.gather(-1, target.tokens.to(q.device))
        if target.rest:
            q = with_rest(q)
    return full_divergence(p, q, direction) * temperature**2


def training_order(examples: Sequence[DistillationExample], settings: DistillConfig) -> list[int]:
    """Return example indices in training order; each epoch has all entity examples and `n_anchors` anchors per example.

    Anchors are limited to those available. With an optimiser per sentence, all epochs of one sentence come before the next.
    """
    own = [i for i, example in enumerate(examples) if example.entity]
    rng = random.Random(settings.seed)
    if settings.optimizer == "per_sentence":
        return [i for i in rng.sample(own, len(own)) for _ in range(settings.epochs)]
    anchors = [i for i, example in enumerate(examples) if not example.entity]
    n_anchors = min(len(anchors), settings.n_anchors * len(own))
    anchors_in_turn, order = cycle(anchors), list[int]()
    epochs = [[*own, *islice(anchors_in_turn, n_anchors)] for _ in range(settings.epochs)]
    for epoch in epochs:
        order += rng.sample(epoch, len(epoch))
    if settings.group_by_length:
        size, n = settings.batch_size, len(own) + n_anchors
        for start in range(0, len(order), n or 1):
            steps = slice(-(-start // size) * size, (start + n) // size * size)  # steps that lie entirely within this epoch
            order[steps] = _grouped_by_length(order[steps], examples, size, rng)
    return order


def _grouped_by_length(
    order: Sequence[int], examples: Sequence[DistillationExample], size: int, rng: random.Random
) -> list[int]:
    """Sort each window of steps by length, cut it into steps again, and shuffle the steps."""
    by_length: list[int] = []
    for start in range(0, len(order), WINDOW * size):
        by_length += sorted(order[start : start + WINDOW * size], key=lambda i: len(examples[i].student))
    steps = [by_length[start : start + size] for start in range(0, len(order), size)]
    return list(chain(*rng.sample(steps, len(steps))))
