"""How far one distribution over tokens is from another."""

import math
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

Direction = Literal["forward", "reverse", "jsd"]
BLOCK = 2**21
"""Logits worked on at once: what a block takes stays in a processor's cache."""


def divergence(
    teacher: Float[Tensor, "... tokens"], student: Float[Tensor, "... tokens"], direction: Direction = "forward"
) -> Float[Tensor, "..."]:
    """Of log-probabilities, in nats.

    With P the teacher and Q the student: "forward" KL(P || Q), "reverse" KL(Q || P), "jsd" (Jensen-Shannon) half of each, to
    their mean.

    Args:
        teacher: log-probabilities.
        student: of the same tokens.
        direction: which.
    """
    if direction == "forward":
        return _kl(teacher, student)
    if direction == "reverse":
        return _kl(student, teacher)
    mean = torch.logaddexp(teacher, student) - math.log(2)
    return (_kl(teacher, mean) + _kl(student, mean)) / 2


def _kl(p: Tensor, q: Tensor) -> Tensor:
    return (p.exp() * (p - q)).sum(-1)


def divergence_of_logits(
    teacher: Float[Tensor, "rows tokens"],
    student: Float[Tensor, "rows tokens"],
    direction: Direction = "forward",
    *,
    temperature: float = 1.0,
) -> Float[Tensor, " rows"]:
    """The same of logits, whose gradient flows into the student's; in single precision at least.

    Args:
        teacher: logits.
        student: of the same tokens.
        direction: see `divergence`.
        temperature: of both distributions.
    """
    return _OfLogits.apply(student, teacher.detach(), direction, temperature)  # pyright: ignore[reportReturnType]


class _OfLogits(torch.autograd.Function):
    """Block after block of rows, the gradient at once, so that no more memory is held than the gradient takes."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, direction: Direction, temperature: float) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        size = max(1, BLOCK // student.shape[-1])
        # In single precision: what a step scales up later must not have vanished before, as it may in half.
        found, gradient = [], torch.empty_like(student, dtype=torch.promote_types(student.dtype, torch.float32))
        for rows, taught, slope in zip(student.split(size), teacher.split(size), gradient.split(size), strict=True):
            with torch.enable_grad():
                own = in_single(rows.detach()).requires_grad_()
                p, q = ((each / temperature).log_softmax(-1) for each in (in_single(taught), own))
                apart = divergence(p, q, direction)
                slope.copy_(torch.autograd.grad(apart.sum(), own)[0])
            found.append(apart.detach())
        ctx.save_for_backward(gradient)
        ctx.dtype = student.dtype
        return torch.cat(found)

    @staticmethod
    def backward(ctx: Any, by: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return (ctx.saved_tensors[0] * by[:, None]).to(ctx.dtype), None, None, None


def in_single(x: Tensor) -> Tensor:
    """In single precision at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
