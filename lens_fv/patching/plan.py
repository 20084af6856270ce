"""Estimates of how many rows fit into memory, made before they run."""

from typing import NamedTuple

import psutil
import torch

from lens_fv.errors import LensFVError
from lens_fv.model.lens_model import LensModel
from lens_fv.patching.split import SplitPrompts

MOST_TOKENS = 512
"""Maximum number of row tokens per pass, because masks and scores between rows grow with its square."""
SHARE = 0.5
"""Default fraction of the free memory that activations may take."""


class Plan(NamedTuple):
    """How a run is divided into passes, and the memory it is expected to take.

    Attributes:
        backend: Backend by which branches run.
        prompts, prefix_tokens, row_tokens: Number of prompts, and of tokens in the shared prefix and in each row.
        rows, rows_per_pass, passes: Number of rows, of rows per pass, and of passes.
        fixed_bytes: Memory for the prompts' own activations, keys and values.
        row_bytes: Memory for the activations and logits of one more row.
        budget: Limit for both together, in bytes.
    """

    backend: str
    prompts: int
    prefix_tokens: int
    row_tokens: int
    rows: int
    rows_per_pass: int
    passes: int
    fixed_bytes: int
    row_bytes: int
    budget: int

    @property
    def peak_bytes(self) -> int:
        """Expected memory of the largest pass, without the weights."""
        return self.fixed_bytes + self.rows_per_pass * self.row_bytes

    def __str__(self) -> str:
        """The plan in one line."""
        mib = 2**20
        return (
            f"{self.rows} rows of {self.row_tokens} tokens after {self.prompts} x {self.prefix_tokens}, "
            f"backend {self.backend}: {self.passes} passes of up to {self.rows_per_pass} rows, "
            f"about {self.peak_bytes / mib:.0f} MiB of {self.budget / mib:.0f} MiB "
            f"(and {self.row_bytes / mib:.2f} MiB for each further row)"
        )


def make_plan(model: LensModel, backend: str, prompts: SplitPrompts, *, rows: int, budget: int | None) -> Plan:
    """Estimate a run's memory and divide its rows to fit a budget in bytes.

    Raises:
        LensFVError: the budget is smaller than the prompts and one row.
    """
    if budget is None:
        budget = int(SHARE * _free(model.device))
    n_prompts, prefix, width = len(prompts.prefixes), prompts.prefix, prompts.width
    size = torch.empty((), dtype=model.dtype).element_size()
    # Peak per token in a layer: its input, the inner states of attention or the MLP with their copies, and its output.
    token = size * (4 * model.d_model + 4 * max(model.d_mlp, model.n_heads * model.d_head))
    kept = 2 * size * model.n_layers * model.n_kv_heads * model.d_head  # keys and values of one token in all layers
    logits = 4 * 4 * 4096
    scores = 3 * 4 * model.n_heads
    lead = prefix + len(prompts.suffixes[0]) * width
    keys = prefix + width
    if backend == "loop":
        row, fixed = n_prompts * width * size * model.d_model, keys * (token + scores * keys)
        max_rows = rows
    else:
        row, fixed = n_prompts * width * (token + scores * keys + logits), n_prompts * lead * (token + kept + scores * lead)
        if backend == "batched":
            row += n_prompts * keys * kept
        max_rows = max(1, MOST_TOKENS // width)
        if backend == "masked":  # scores between all rows
            row += n_prompts * width * scores * min(max_rows, rows) * width
    fitting = (budget - fixed) // row
    if fitting < 1:
        raise LensFVError(
            f"a memory budget of {budget / 2**20:.0f} MiB: {n_prompts} prompts of {keys} tokens take about "
            f"{fixed / 2**20:.0f} MiB on {model.name} and each row {row / 2**20:.1f} MiB; give more, or fewer prompts at once"
        )
    per_pass = max(1, min(fitting, max_rows, rows))
    return Plan(backend, n_prompts, prefix, width, rows, per_pass, -(-rows // per_pass), fixed, row, budget)


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error is a failed allocation, on any device."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
