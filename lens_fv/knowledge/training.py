"""Train a model on distillation targets, and restore its weights afterwards."""

import random
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from lens_fv.core.files import explain_disk_errors
from lens_fv.core.progress import progress_bar
from lens_fv.errors import LensFVError
from lens_fv.finetuning.loop import pad_token, trainer_arguments
from lens_fv.finetuning.run import clear_unfinished
from lens_fv.knowledge.change import Change, trainable
from lens_fv.knowledge.examples import DistillationExample
from lens_fv.knowledge.settings import DistillConfig
from lens_fv.knowledge.targets import Target
from lens_fv.model.lens_model import LensModel
from lens_fv.model.quiet import quiet_logs

if TYPE_CHECKING:
    from transformers import Trainer

WINDOW = 8
"""Window size, in steps, within which examples are sorted by length."""


def train_student(
    model: LensModel,
    examples: Sequence[DistillationExample],
    targets: Sequence[Target],
    settings: DistillConfig,
    *,
    folder: Path | None = None,
    stop_after_epochs: int | None = None,
    what: str = "teaching",
    progress: bool = False,
) -> Change:
    """Train a model towards its targets with transformers' Trainer, and restore its weights afterwards.

    Args:
        model: model to train in place. Nothing else may use it during training. Its weights are restored even if training
            fails.
        examples: examples to train on.
        targets: targets of each example.
        settings: training settings.
        folder: folder for checkpoints, from which an interrupted run resumes; None keeps none.
        stop_after_epochs: number of epochs after which to stop.
        what: label of the progress bar.
        progress: whether to show a progress bar.

    Raises:
        LensFVError: a non-finite loss, layers that the model does not have, or checkpoints later than the requested
            end.
    """
    if stop_after_epochs is not None and settings.optimizer == "per_sentence":
        raise LensFVError(
            f"stop teaching after {stop_after_epochs} epochs: with an optimizer per sentence there are none of all sentences"
        )
    if not examples:
        return Change({}, {}, {})
    from lens_fv.finetuning.callbacks import CheckpointCallback  # imports transformers' Trainer, which takes seconds

    order = training_order(examples, settings)
    steps = -(-len(order) * (stop_after_epochs or settings.epochs) // (settings.epochs * settings.batch_size))
    with quiet_logs(), trainable(model, settings) as (trained, change), TemporaryDirectory() as aside:
        at = folder or Path(aside)
        full = explain_disk_errors(f"teach in {at}", otherwise="its checkpoints are whole: make room and run it again to go on")
        with full, progress_bar(what, steps, show=progress) as tick:
            trainer = _trainer(model, trained, examples, targets, order, settings, at, steps, keep=folder is not None)
            trainer.add_callback(CheckpointCallback(at, 0, steps, tick))
            clear_unfinished(at)
            done = max((int(each.name.rpartition("-")[2]) for each in at.glob("checkpoint-*")), default=0)
            if done > steps:
                raise LensFVError(f"stop after {steps} steps: {at} holds the state after {done}; take another folder")
            for _ in range(done):
                tick()
            trainer.train(resume_from_checkpoint=str(at / f"checkpoint-{done}") if done else None)
            trainer.accelerator.free_memory()  # free the optimiser's memory before computing the change
            trainer.optimizer = trainer.lr_scheduler = None
        return change()


def training_order(examples: Sequence[DistillationExample], settings: DistillConfig) -> list[int]:
    """Return example indices in training order; each epoch has all entity examples and `n_anchors` anchors per example.

    Anchors are limited to those available. With an optimiser per sentence, all epochs of one sentence come before the next.
    """
    own = [i for i, example in enumerate(examples) if example.entity]
    if settings.optimizer == "per_sentence":
        return [i for i in random.Random(settings.seed).sample(own, len(own)) for _ in range(settings.epochs)]
    anchors = [i for i, example in enumerate(examples) if not example.entity]
    n = min(len(anchors), settings.n_anchors * len(own))
    rng, following = random.Random(settings.seed), cycle(anchors)
    epochs = [[*own, *islice(following, n)] for _ in range(settings.epochs)]
    order = [i for each in epochs for i in rng.sample(each, len(each))]
    if settings.group_by_length:
        size, n = settings.batch_size, len(own) + n
        for begin in range(0, len(order), n or 1):
            steps = slice(-(-begin // size) * size, (begin + n) // size * size)  # steps that lie entirely within this epoch
            order[steps] = _alike(order[steps], examples, size, rng)
    return order


def _alike(order: Sequence[int], examples: Sequence[DistillationExample], size: int, rng: random.Random) -> list[int]:
    """Sort each window of steps by length, cut it into steps again, and shuffle the steps."""
    windows = (order[i : i + WINDOW * size] for i in range(0, len(order), WINDOW * size))
    by_length = [i for each in windows for i in sorted(each, key=lambda i: len(examples[i].student))]
    steps = [by_length[i : i + size] for i in range(0, len(order), size)]
    return [i for each in rng.sample(steps, len(steps)) for i in each]


def _trainer(
    model: LensModel,
    trained: Any,
    examples: Sequence[DistillationExample],
    targets: Sequence[Target],
    order: Sequence[int],
    settings: DistillConfig,
    folder: Path,
    steps: int,
    *,
    keep: bool,
) -> "Trainer":
    from transformers import PrinterCallback

    from lens_fv.knowledge.trainer import DistillationTrainer, NewOptimizer

    micro_batch_size = next(
        n for n in range(min(settings.micro_batch_size, settings.batch_size), 0, -1) if settings.batch_size % n == 0
    )
    trainer = DistillationTrainer(
        examples,
        targets,
        order,
        model=trained,
        args=trainer_arguments(
            folder,
            batch_size=micro_batch_size,
            accumulation=settings.batch_size // micro_batch_size,
            steps=steps,
            save_steps=-(-steps // settings.n_checkpoints) if keep else None,
            learning_rate=settings.rate,
            seed=settings.seed,
            device=str(model.device),
            schedule=settings.schedule,
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.max_grad_norm,
        ),
        pad=pad_token(model.tokenizer),
        settings=settings,
    )
    trainer.remove_callback(PrinterCallback)
    if settings.optimizer == "per_sentence":
        trainer.add_callback(NewOptimizer(settings.epochs))
    return trainer
