"""Penalties on where updates may go: older ways to keep what was learned before."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lens_fv.errors import LensFVError
from lens_fv.model.exclusive import exclusive, modules_of
from lens_fv.model.measuring import eval_mode

Fisher = Literal["batch", "example"]
Importance = dict[str, tuple[Tensor, Tensor]]
"""By parameter: how much each number matters (Fisher information), and what it was."""


def importance(
    model: nn.Module,
    batches: Sequence[Mapping[str, Tensor]],
    before: Mapping[str, tuple[Tensor, Tensor]] | None = None,
    *,
    fisher: Fisher = "batch",
) -> Importance:
    """The diagonal of the empirical Fisher information of what is trained, and its values now (Kirkpatrick et al. 2017).

    The mean of the squared gradient of the loss of the answers, which is in nats a token. A gradient of a batch is a mean of
    gradients of examples: were these independent, its square would be that of an example divided by the size of the batch. So
    the weight of `elastic` belongs to one kind of information, and to one batch size if that kind is "batch".

    Args:
        model: with the parameters that are trained.
        batches: `input_ids`, `attention_mask`, `labels`.
        before: of tasks before: their information is added.
        fisher: squares of the gradients of whole batches, one backward pass for each; or of every "example" by itself, which is
            the information's definition, and takes as many passes as there are examples.

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
                if gradient is not None:
                    found[name] += gradient.detach().square() / len(shown)
    for name in found if before else ():
        found[name] += before[name][0].to(found[name]) if before else 0
    return {name: (found[name], trained[name].detach().clone()) for name in found}


def _rows(batch: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    for i in range(len(batch["input_ids"])):
        yield {name: value[i : i + 1] for name, value in batch.items()}


def elastic(model: nn.Module, kept: Importance, weight: float) -> Callable[[], Tensor]:
    """Elastic weight consolidation: weight x the sum of importance x squared change (Kirkpatrick et al. 2017).

    Their penalty is half of lambda times that sum, so `weight` is lambda / 2; it is added to a loss in nats a token.
    """
    trained = dict(model.named_parameters())
    known = [(trained[name], f.to(trained[name]), was.to(trained[name])) for name, (f, was) in kept.items()]

    def penalty() -> Tensor:
        return weight * torch.stack([(f * (p - was).square()).sum() for p, f, was in known]).sum()

    return penalty


class OrthogonalBlocks:
    """Low-rank updates in blocks, one a task: the one that is trained keeps orthogonal to those before (Wang et al. 2023).

    One adapter holds all blocks, rows of A and columns of B; only the block of the task at hand gets gradients. A block whose
    B is still zero does nothing.

    Args:
        model: a PEFT model whose rank is a multiple of `rank`.
        rank: of each block.
        index: of the block to train.
        weight: of the sum of |A_before A_now^T|.

    Raises:
        LensFVError: a model without low-rank updates, or of fewer blocks.
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
        """The penalty."""
        if not self._first:
            return self._down[0].new_zeros(())
        apart = [(p[: self._first].detach() @ p[self._first : self._end].T).abs().sum() for p in self._down]
        return self._weight * torch.stack(apart).sum()

    def close(self) -> None:
        """Let all blocks have gradients again."""
        for hook in self._hooks:
            hook.remove()

    def _masked(self, *, rows: bool) -> Callable[[Tensor], Tensor]:
        def hook(gradient: Tensor) -> Tensor:
            kept = torch.zeros_like(gradient)
            own = slice(self._first, self._end) if rows else (slice(None), slice(self._first, self._end))
            kept[own] = gradient[own]
            return kept

        return hook
