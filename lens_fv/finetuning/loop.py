"""What all training loops share: padded batches, and the checkpoints in their folders."""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lens_fv.core.json_files import read_json
from lens_fv.errors import LensFVError

MARKER = "done.json"
"""Marker file written last; a checkpoint without it is incomplete."""


@dataclass(frozen=True)
class Marker:
    """Contents of a complete checkpoint's marker file; see `lens_fv.finetuning.Checkpoint`."""

    total: int
    last: bool


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


def complete_checkpoints(folder: Path) -> dict[int, Marker]:
    """Return the markers of the complete checkpoints in a folder, by step."""
    markers: dict[int, Marker] = {}
    for checkpoint in folder.glob("checkpoint-*"):
        number, marker = re.fullmatch(r"checkpoint-([1-9][0-9]{0,8})", checkpoint.name), _read_marker(checkpoint)
        if number and marker:
            markers[int(number[1])] = marker
    return markers


def clear_unfinished(folder: Path) -> None:
    """Remove incomplete checkpoints left by an interrupted run."""
    for checkpoint in folder.glob("checkpoint-*"):
        if _read_marker(checkpoint) is None:
            shutil.rmtree(checkpoint)


def _read_marker(checkpoint: Path) -> Marker | None:
    try:
        return read_json(checkpoint / MARKER, Marker)
    except LensFVError:  # a damaged marker counts as a missing one
        return None
