"""What every training run here asks of transformers' Trainer."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import TrainingArguments


def trainer_arguments(
    folder: Path,
    *,
    batch_size: int,
    steps: int,
    save_steps: int | None,
    learning_rate: float,
    seed: int,
    device: str,
    accumulation: int = 1,
    schedule: Literal["constant", "linear"] = "constant",
    weight_decay: float = 0.0,
    clip: float | None = 1.0,
) -> "TrainingArguments":
    """Every step's loss in the log, checkpoints now and then, and nothing printed or reported.

    Args:
        folder: of the checkpoints.
        batch_size: examples that run together.
        steps: updates.
        save_steps: between checkpoints; None: there are none.
        learning_rate: of AdamW.
        seed: of the order and of dropout.
        device: "cpu", or where there is one.
        accumulation: batches to an update.
        schedule: the learning rate stays, or falls in a straight line to 0.
        weight_decay: of AdamW.
        clip: largest length of a step's gradient; None: no limit.
    """
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        max_steps=steps,
        learning_rate=learning_rate,
        lr_scheduler_type=schedule,
        weight_decay=weight_decay,
        max_grad_norm=clip or 0.0,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no" if save_steps is None else "steps",
        save_steps=save_steps or steps,
        seed=seed,
        use_cpu=device == "cpu",
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=True,
    )


def padded(
    rows: Sequence[Sequence[int]], pad: int, device: str | torch.device = "cpu", *, left: bool = False
) -> dict[str, Tensor]:
    """Token ids as one batch, padded on the right or the left, and the mask that keeps padding from being seen."""
    longest = max(map(len, rows))

    def filled(row: Sequence[int], pad: int) -> list[int]:
        padding = [pad] * (longest - len(row))
        return [*padding, *row] if left else [*row, *padding]

    return {
        "input_ids": torch.tensor([filled(row, pad) for row in rows], device=device),
        "attention_mask": torch.tensor([filled([1] * len(row), 0) for row in rows], device=device),
    }


def pad_token(tokenizer: Any) -> int:
    """A token id to fill rows up with; it is never seen."""
    return next(int(t) for t in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if t is not None)
