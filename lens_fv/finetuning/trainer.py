"""Training with transformers' Trainer: its arguments, the checkpoints that it saves, and how it resumes from them."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, TrainerCallback, TrainingArguments

from lens_fv.core.files import write_atomically
from lens_fv.errors import LensFVError
from lens_fv.finetuning.loop import MARKER, Marker, clear_unfinished, complete_checkpoints
from lens_fv.model.finite import loss_not_finite

RESUME_FILES = ("optimizer.pt", "scheduler.pt", "rng_state.pth")
"""Files needed only to resume training; with all weights trained they take twice the size of the weights."""


def trainer_arguments(folder: Path, device: str, steps: int, save_steps: int | None, **options: Any) -> TrainingArguments:
    """Return Trainer arguments that log every step's loss, save checkpoints, and print or report nothing.

    Args:
        folder: Folder of the checkpoints.
        device: Type of device, such as "cpu".
        steps: Number of steps.
        save_steps: Number of steps between checkpoints; None: no checkpoints.
        **options: Other arguments of transformers' `TrainingArguments`.
    """
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no" if save_steps is None else "steps",
        save_steps=save_steps or steps,
        use_cpu=device == "cpu",
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=True,
        **options,
    )


def train_from_checkpoint(trainer: Any, folder: Path, steps: int, tick: Callable[[], None], *, index: int = 0) -> None:
    """Train to a number of steps, from the last complete checkpoint in the folder if there is one.

    Args:
        trainer: Trainer with the arguments of `trainer_arguments`.
        folder: Folder of the Trainer's checkpoints.
        steps: Number of steps, including those of the checkpoint.
        tick: Called after every step, and once for each step of the checkpoint.
        index: Index of this training among those of a sequence, all with equally many steps.

    Raises:
        LensFVError: a checkpoint after more steps, or a non-finite loss.
    """
    clear_unfinished(folder)
    start = max(complete_checkpoints(folder), default=0)
    if start > steps:
        raise LensFVError(f"stop after {steps} steps: {folder} holds the state after {start}; take another folder")
    for _ in range(start):
        tick()
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(CheckpointCallback(folder, index, steps, tick))
    trainer.train(resume_from_checkpoint=str(folder / f"checkpoint-{start}") if start else None)


class CheckpointCallback(TrainerCallback):
    """Mark complete checkpoints of a stage, delete files that are no longer needed, and stop at a non-finite loss."""

    def __init__(self, folder: Path, index: int, steps: int, tick: Callable[[], None]) -> None:
        self._folder, self._index, self._steps, self._tick = folder, index, steps, tick

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """See transformers."""
        self._tick()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
        """See transformers."""
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            n_updates = self._index * self._steps + int(state.global_step) - 1  # before this loss was computed
            raise loss_not_finite("fine-tune", loss, n_updates)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """See transformers."""
        step = int(state.global_step)
        checkpoint = self._folder / f"checkpoint-{step}"
        (checkpoint / "training_args.bin").unlink(missing_ok=True)  # an unused pickle
        marker = Marker(total=self._index * self._steps + step, last=step == self._steps)
        write_atomically(checkpoint / MARKER, json.dumps(asdict(marker)))
        for earlier in self._folder.glob("checkpoint-*"):
            if earlier != checkpoint:
                for name in RESUME_FILES:
                    (earlier / name).unlink(missing_ok=True)
