"""Callbacks at every step and checkpoint of a fine-tuning run."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from lens_fv.core.files import write_atomically
from lens_fv.finetuning.run import MARKER
from lens_fv.model.finite import loss_not_finite

RESUME_FILES = ("optimizer.pt", "scheduler.pt", "rng_state.pth")
"""Files needed only to resume training; with all weights trained they take twice the size of the weights."""


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
        marker = {"total": self._index * self._steps + step, "last": step == self._steps}
        write_atomically(checkpoint / MARKER, json.dumps(marker))
        for earlier in self._folder.glob("checkpoint-*"):
            if earlier != checkpoint:
                for name in RESUME_FILES:
                    (earlier / name).unlink(missing_ok=True)
