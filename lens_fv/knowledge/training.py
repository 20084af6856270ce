"""Train a model on distillation targets, and restore its weights afterwards."""

import random
from collections.abc import Sequence
from itertools import chain, cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory

from lens_fv.core.files import explain_disk_errors
from lens_fv.core.progress import progress_bar
from lens_fv.errors import LensFVError
from lens_fv.finetuning.loop import pad_token
from lens_fv.finetuning.run import clear_unfinished
from lens_fv.knowledge.change import Change, trainable
from lens_fv.knowledge.examples import DistillationExample
from lens_fv.knowledge.settings import DistillConfig
from lens_fv.knowledge.targets import Target
from lens_fv.model.lens_model import LensModel
from lens_fv.model.quiet import quiet_logs

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
    from lens_fv.finetuning.marks import Marks  # these two import transformers' Trainer, which takes seconds
    from lens_fv.knowledge.trainer import DistillationTrainer

    order = training_order(examples, settings)
    steps = -(-len(order) * (stop_after_epochs or settings.epochs) // (settings.epochs * settings.batch_size))
    save = folder is not None
    with quiet_logs(), trainable(model, settings) as (student, change), TemporaryDirectory() as temporary:
        folder = folder or Path(temporary)
        context, remedy = f"teach in {folder}", "its checkpoints are whole: make room and run it again to go on"
        with explain_disk_errors(context, otherwise=remedy), progress_bar(what, steps, show=progress) as tick:
            pad = pad_token(model.tokenizer)
            trainer = DistillationTrainer(
                student, examples, targets, order, settings, steps=steps, folder=folder, save=save, pad=pad
            )
            trainer.add_callback(Marks(folder, 0, steps, tick))
            clear_unfinished(folder)
            start = max((int(path.name.rpartition("-")[2]) for path in folder.glob("checkpoint-*")), default=0)
            if start > steps:
                raise LensFVError(f"stop after {steps} steps: {folder} holds the state after {start}; take another folder")
            for _ in range(start):
                tick()
            trainer.train(resume_from_checkpoint=str(folder / f"checkpoint-{start}") if start else None)
            trainer.accelerator.free_memory()  # free the optimiser's memory before computing the change
            trainer.optimizer = trainer.lr_scheduler = None
        return change()


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
