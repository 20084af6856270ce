"""Give a model's weights what takes it to its targets, and take it out again."""

import random
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from lens_fv.core.files import on_disk
from lens_fv.core.progress import progress_bar
from lens_fv.errors import LensFVError
from lens_fv.finetuning.loop import pad_token, trainer_arguments
from lens_fv.finetuning.run import clear_unfinished
from lens_fv.knowledge.change import Change, trainable
from lens_fv.knowledge.examples import DistillationExample
from lens_fv.knowledge.settings import DistillConfig
from lens_fv.knowledge.targets import Target
from lens_fv.model.lens_model import LensModel
from lens_fv.model.quiet import hushed

if TYPE_CHECKING:
    from transformers import Trainer

WINDOW = 8
"""Steps whose lessons are sorted by length together."""


def teach(
    model: LensModel,
    lessons: Sequence[DistillationExample],
    targets: Sequence[Target],
    settings: DistillConfig,
    *,
    folder: Path | None = None,
    until: int | None = None,
    what: str = "teaching",
    progress: bool = False,
) -> Change:
    """Train a model's own weights to say what the targets are, with transformers' Trainer, and put the weights back.

    Args:
        model: is trained in place: nothing else may use it meanwhile. Whatever happens, it is afterwards what it was.
        lessons: what is read.
        targets: what is to be said, of each lesson.
        settings: how.
        folder: of checkpoints, to go on from where a run was stopped; None: keep none.
        until: stop behind so many epochs.
        what: of the progress bar.
        progress: draw it.

    Raises:
        LensFVError: a loss that is not finite, layers that the model does not have, or checkpoints from behind where it should
            stop.
    """
    if until is not None and settings.optimizer == "per_sentence":
        raise LensFVError(f"stop teaching after {until} epochs: with an optimizer per sentence there are none of all sentences")
    if not lessons:
        return Change({}, {}, {})
    from lens_fv.finetuning.marks import Marks  # which takes transformers' Trainer, and that seconds to import

    order = teaching_order(lessons, settings)
    steps = -(-len(order) * (until or settings.epochs) // (settings.epochs * settings.batch_size))
    with hushed(), trainable(model, settings) as (trained, change), TemporaryDirectory() as aside:
        at = folder or Path(aside)
        full = on_disk(f"teach in {at}", otherwise="its checkpoints are whole: make room and run it again to go on")
        with full, progress_bar(what, steps, show=progress) as tick:
            trainer = _trainer(model, trained, lessons, targets, order, settings, at, steps, keep=folder is not None)
            trainer.add_callback(Marks(at, 0, steps, tick))
            clear_unfinished(at)
            done = max((int(each.name.rpartition("-")[2]) for each in at.glob("checkpoint-*")), default=0)
            if done > steps:
                raise LensFVError(
                    f"stop teaching behind {steps} steps: {at} holds what there is behind {done}; take another folder"
                )
            for _ in range(done):
                tick()
            trainer.train(resume_from_checkpoint=str(at / f"checkpoint-{done}") if done else None)
            trainer.accelerator.free_memory()  # the optimizer's, before the change takes some
            trainer.optimizer = trainer.lr_scheduler = None
        return change()


def teaching_order(lessons: Sequence[DistillationExample], settings: DistillConfig) -> list[int]:
    """Indices of lessons, every time that they are taught: each epoch has all that are of entities, and as many anchors.

    With an optimizer per sentence all epochs of one come before the next.
    """
    own = [i for i, lesson in enumerate(lessons) if lesson.entity]
    if settings.optimizer == "per_sentence":
        return [i for i in random.Random(settings.seed).sample(own, len(own)) for _ in range(settings.epochs)]
    anchors = [i for i, lesson in enumerate(lessons) if not lesson.entity]
    n = min(len(anchors), settings.n_anchors * len(own))
    rng, following = random.Random(settings.seed), cycle(anchors)
    epochs = [[*own, *islice(following, n)] for _ in range(settings.epochs)]
    order = [i for each in epochs for i in rng.sample(each, len(each))]
    if settings.group_by_length:
        size, n = settings.batch_size, len(own) + n
        for begin in range(0, len(order), n or 1):
            steps = slice(-(-begin // size) * size, (begin + n) // size * size)  # those that are of this epoch alone
            order[steps] = _alike(order[steps], lessons, size, rng)
    return order


def _alike(order: Sequence[int], lessons: Sequence[DistillationExample], size: int, rng: random.Random) -> list[int]:
    """So many steps after another sorted by length and cut anew, in any order."""
    windows = (order[i : i + WINDOW * size] for i in range(0, len(order), WINDOW * size))
    by_length = [i for each in windows for i in sorted(each, key=lambda i: len(lessons[i].student))]
    steps = [by_length[i : i + size] for i in range(0, len(order), size)]
    return [i for each in rng.sample(steps, len(steps)) for i in each]


def _trainer(
    model: LensModel,
    trained: Any,
    lessons: Sequence[DistillationExample],
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

    at_once = next(n for n in range(min(settings.at_once, settings.batch_size), 0, -1) if settings.batch_size % n == 0)
    trainer = DistillationTrainer(
        lessons,
        targets,
        order,
        model=trained,
        args=trainer_arguments(
            folder,
            batch_size=at_once,
            accumulation=settings.batch_size // at_once,
            steps=steps,
            save_steps=-(-steps // settings.n_checkpoints) if keep else None,
            learning_rate=settings.rate,
            seed=settings.seed,
            device=str(model.device),
            schedule=settings.schedule,
            weight_decay=settings.weight_decay,
            clip=settings.clip,
        ),
        pad=pad_token(model.tokenizer),
        settings=settings,
    )
    trainer.remove_callback(PrinterCallback)
    if settings.optimizer == "per_sentence":
        trainer.add_callback(NewOptimizer(settings.epochs))
    return trainer
