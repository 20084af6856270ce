"""Penalties on weight changes: established methods against forgetting."""

from collections.abc import Callable, Iterator, Mapping, Sequence
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
        model: model with trainable parameters.
        batches: `input_ids`, `attention_mask`, `labels`.
        previous: importance of earlier tasks, which is added.
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
    found = {name: torch.zeros_like(p) for name, p in trained.items()}
    with exclusive(model) as gate, torch.enable_grad():
        eval_mode(gate, modules_of(model))
        shown = list(batches) if fisher == "batch" else [row for batch in batches for row in _rows(batch)]
        for each in shown:
            gradients = torch.autograd.grad(model(**each).loss, list(trained.values()), allow_unused=True)
            for name, gradient in zip(trained, gradients, strict=True):
                if gradient is not None:  # pyright: ignore[reportUnnecessaryComparison]  # torch types it wrongly
                    found[name] += gradient.detach().square() / len(shown)
    for name in found if previous else ():
        found[name] += previous[name][0].to(found[name]) if previous else 0
    return {name: (found[name], trained[name].detach().clone()) for name in found}


def _rows(batch: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    for i in range(len(batch["input_ids"])):
        yield {name: value[i : i + 1] for name, value in batch.items()}


def ewc_penalty(model: nn.Module, kept: Importance, weight: float) -> Callable[[], Tensor]:
    """Elastic weight consolidation: weight x sum of (importance x squared change) (Kirkpatrick et al. 2017).

    Their penalty is half of lambda times that sum, so `weight` is lambda / 2. It is added to a loss in nats per token.
    """
    trained = dict(model.named_parameters())
    known = [(trained[name], f.to(trained[name]), was.to(trained[name])) for name, (f, was) in kept.items()]

    def penalty() -> Tensor:
        return weight * torch.stack([(f * (p - was).square()).sum() for p, f, was in known]).sum()

    return penalty


class OrthogonalBlocks:
    """Low-rank updates with one block per task; the trained block is kept orthogonal to earlier ones (Wang et al. 2023).

    A single adapter holds all blocks as rows of A and columns of B. Only the current task's block receives gradients. A block
    has no effect while its B is zero.

    Args:
        model: PEFT model with a rank that is a multiple of `rank`.
        rank: rank of each block.
        index: index of the block to train.
        weight: weight of the penalty, the sum of |A_before A_now^T|.

    Raises:
        LensFVError: a model without low-rank updates, or with too few blocks.
    """

    def __init__(self, model: nn.Module, rank: int, index: int, weight: float) -> None:
        maps = {name: p for name, p in model.named_parameters() if p.requires_grad and ".lora_" in name}
        self._down = [p for name, p in maps.items() if ".lora_A." in name]
        if not self._down or any(p.shape[0] < (index + 1) * rank for p in self._down):
            raise LensFVError(f"keep block {index} of rank {rank} orthogonal: the model's updates have no such block")
        self._first, self._end, self._weight = index * rank, (index + 1) * rank, weight
        self._hooks: list[Any] = []
        for name, p in maps.items():
            self._hooks.append(p.register_hook(self._masked(rows=".lora_A." in name)))

    def __call__(self) -> Tensor:
        """Return the penalty."""
        if not self._first:
            return self._down[0].new_zeros(())
        apart = [(p[: self._first].detach() @ p[self._first : self._end].T).abs().sum() for p in self._down]
        return self._weight * torch.stack(apart).sum()

    def close(self) -> None:
        """Remove the gradient masks, so that all blocks receive gradients again."""
        for hook in self._hooks:
            hook.remove()

    def _masked(self, *, rows: bool) -> Callable[[Tensor], Tensor]:
        def hook(gradient: Tensor) -> Tensor:
            kept = torch.zeros_like(gradient)
            own = slice(self._first, self._end) if rows else (slice(None), slice(self._first, self._end))
            kept[own] = gradient[own]
            return kept

        return hook
