"""Trainer arguments and batching shared by all training runs."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

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
    max_grad_norm: float | None = 1.0,
) -> "TrainingArguments":
    """Return Trainer arguments that log every step's loss, save checkpoints, and print or report nothing.

    Checkpoints are saved every `save_steps` steps, or never if it is None. `accumulation` batches of `batch_size` make a step.
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
        max_grad_norm=max_grad_norm or 0.0,
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
    """Pad token ids on the right or left into one batch, with an attention mask that hides the padding."""
    ids = [torch.tensor(row, dtype=torch.long, device=device) for row in rows]
    batched = partial(pad_sequence, batch_first=True, padding_side="left" if left else "right")
    mask = batched([torch.ones_like(row) for row in ids])
    return {"input_ids": batched(ids, padding_value=pad), "attention_mask": mask}


def pad_token(tokenizer: Any) -> int:
    """Return a token id for padding; attention masks hide it."""
    return next(int(t) for t in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if t is not None)
