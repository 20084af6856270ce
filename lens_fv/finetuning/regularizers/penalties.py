"""Penalties on weight changes: established methods against forgetting."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lens_fv.errors import LensFVError
from lens_fv.model.exclusive import exclusive, modules_of
from lens_fv.model.measuring import eval_mode

Fisher = Literal["batch", "example"]
Importance = dict[str, tuple[Tensor, Tensor]]
"""By parameter name: the Fisher information of each entry, and the parameter's value at that time."""


def fisher_information(
    model: nn.Module,
    batches: Sequence[Mapping[str, Tensor]],
    previous: Mapping[str, tuple[Tensor, Tensor]] | None = None,
    *,
    fisher: Fisher = "batch",
) -> Importance:
    """Compute the diagonal of the empirical Fisher information of the trained parameters (Kirkpatrick et al. 2017).

    It is the mean squared gradient of the answers' loss, which is in nats per token. A batch gradient is a mean of example
    gradients; if these were independent, its square would be that of an example divided by the batch size. The weight of
    `ewc_penalty` is therefore specific to the kind of information, and for "batch" also to the batch size.

    Args:
        model: Model with trainable parameters.
        batches: `input_ids`, `attention_mask`, `labels`.
        previous: Importance of earlier tasks, which is added.
        fisher: "batch" squares the gradients of whole batches, with one backward pass per batch; "example" squares those of
            single examples, which matches the definition but needs one pass per example.

    Returns:
        For each parameter, its information and its current value.

    Raises:
        LensFVError: no batches.
    """
    if not batches:
        raise LensFVError("importance of weights on 0 batches: give some")
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    information = {name: torch.zeros_like(p) for name, p in trained.items()}
    with exclusive(model) as gate, torch.enable_grad():
        eval_mode(gate, modules_of(model))
        samples = list(batches) if fisher == "batch" else [row for batch in batches for row in _rows(batch)]
        for sample in samples:
            gradients = torch.autograd.grad(model(**sample).loss, list(trained.values()), allow_unused=True)
            for name, gradient in zip(trained, gradients, strict=True):
                if gradient is not None:  # pyright: ignore[reportUnnecessaryComparison]  # torch types it wrongly
                    information[name] += gradient.detach().square() / len(samples)
    for name, (earlier, _) in (previous or {}).items():
        information[name] += earlier.to(information[name])
    return {name: (information[name], p.detach().clone()) for name, p in trained.items()}


def _rows(batch: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    for i in range(len(batch["input_ids"])):
        yield {name: value[i : i + 1] for name, value in batch.items()}


def ewc_penalty(model: nn.Module, importance: Importance, weight: float) -> Callable[[], Tensor]:
    """Elastic weight consolidation: weight x sum of (importance x squared change) (Kirkpatrick et al. 2017).

    Their penalty is half of lambda times that sum, so `weight` is lambda / 2. It is added to a loss in nats per token.
    """
    trained = dict(model.named_parameters())
    terms = [(trained[name], f.to(trained[name]), old.to(trained[name])) for name, (f, old) in importance.items()]

    def penalty() -> Tensor:
        return weight * torch.stack([(f * (p - old).square()).sum() for p, f, old in terms]).sum()

    return penalty


class OrthogonalBlocks:
    """Low-rank updates with one block per task; the trained block is kept orthogonal to earlier ones (Wang et al. 2023).

    A single adapter holds all blocks as rows of A and columns of B. Only the current task's block receives gradients. A block
    has no effect while its B is zero.

    Args:
        model: PEFT model with a rank that is a multiple of `rank`.
        rank: Rank of each block.
        index: Index of the block to train.
        weight: Weight of the penalty, the sum of |A_before A_now^T|.

    Raises:
        LensFVError: a model without low-rank updates, or with too few blocks.
    """

    def __init__(self, model: nn.Module, rank: int, index: int, weight: float) -> None:
        maps = {name: p for name, p in model.named_parameters() if p.requires_grad and ".lora_" in name}
        self._down = [p for name, p in maps.items() if ".lora_A." in name]
        if not self._down or any(p.shape[0] < (index + 1) * rank for p in self._down):
            raise LensFVError(f"keep block {index} of rank {rank} orthogonal: the model's updates have no such block")
        self._start, self._end, self._weight = index * rank, (index + 1) * rank, weight
        block = slice(self._start, self._end)
        self._hooks = [
            p.register_hook(partial(_masked, block if ".lora_A." in name else (slice(None), block))) for name, p in maps.items()
        ]

    def __call__(self) -> Tensor:
        """Return the penalty."""
        if not self._start:
            return self._down[0].new_zeros(())
        overlaps = [p[: self._start].detach() @ p[self._start : self._end].T for p in self._down]
        return self._weight * torch.stack([overlap.abs().sum() for overlap in overlaps]).sum()

    def close(self) -> None:
        """Remove the gradient masks, so that all blocks receive gradients again."""
        for hook in self._hooks:
            hook.remove()


def _masked(block: Any, gradient: Tensor) -> Tensor:
    masked = torch.zeros_like(gradient)
    masked[block] = gradient[block]
    return masked
