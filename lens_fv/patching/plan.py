"""How many rows fit into memory, estimated before they run."""

from typing import NamedTuple

import psutil
import torch

from lens_fv.errors import LensFVError
from lens_fv.model.lens_model import LensModel

MOST_TOKENS = 512
"""Row tokens a pass, where memory allows more: masks and scores between rows grow with their square."""
SHARE = 0.5
"""Of the free memory that activations may take by default."""


class Plan(NamedTuple):
    """How a run goes about its rows, and what it is expected to take.

    Attributes:
        method: the way branches run.
        prompts, prefix_tokens, row_tokens: the size of the batch, of what is shared and of each row.
        rows, rows_per_pass, passes: how many there are, and how they are cut.
        fixed_bytes: activations of the prompts themselves, keys and values and logits.
        row_bytes: activations that one more row adds.
        budget: bytes that both may take.
    """

    method: str
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
        """What the largest pass is expected to take beyond the weights."""
        return self.fixed_bytes + self.rows_per_pass * self.row_bytes

    def __str__(self) -> str:
        """One line."""
        mib = 2**20
        return (
            f"{self.rows} rows of {self.row_tokens} tokens behind {self.prompts} x {self.prefix_tokens}, method {self.method}: "
            f"{self.passes} passes of up to {self.rows_per_pass} rows, about {self.peak_bytes / mib:.0f} MiB of "
            f"{self.budget / mib:.0f} MiB (and {self.row_bytes / mib:.2f} MiB for each further row)"
        )


def make_plan(
    model: LensModel,
    method: str,
    *,
    prompts: int,
    prefix: int,
    width: int,
    variants: int,
    rows: int,
    budget: int | None,
) -> Plan:
    """Estimate a run's memory and cut its rows to a budget in bytes.

    Raises:
        LensFVError: the budget is smaller than the prompts and one row.
    """
    if budget is None:
        budget = int(SHARE * _free(model.device))
    size = torch.empty((), dtype=model.dtype).element_size()
    # A token in a layer at its widest: what enters, attention's or the MLP's inner states with their copies, what leaves.
    token = size * (4 * model.d_model + 4 * max(model.d_mlp, model.n_heads * model.d_head))
    kept = 2 * size * model.n_layers * model.n_kv_heads * model.d_head  # keys and values of a token in all layers
    logits = 4 * 4 * 4096
    scores = 3 * 4 * model.n_heads
    lead = prefix + variants * width
    fixed = prompts * lead * (token + kept + scores * lead)
    if method == "loop":
        row, fixed = prompts * width * size * model.d_model, (prefix + width) * (token + scores * (prefix + width))
        most = rows
    else:
        keys = prefix + width
        row = prompts * width * (token + scores * keys + logits)
        if method == "batched":
            row += prompts * keys * kept
        most = max(1, MOST_TOKENS // width)
        if method == "masked":  # scores between all rows
            row += prompts * width * scores * min(most, rows) * width
    fits = (budget - fixed) // row
    if fits < 1:
        raise LensFVError(
            f"a memory budget of {budget / 2**20:.0f} MiB: {prompts} prompts of {prefix + width} tokens take about "
            f"{fixed / 2**20:.0f} MiB on {model.name} and each row {row / 2**20:.1f} MiB; give more, or fewer prompts at once"
        )
    per_pass = max(1, min(fits, most, rows))
    return Plan(method, prompts, prefix, width, rows, per_pass, -(-rows // per_pass), fixed, row, budget)


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on whatever device."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
