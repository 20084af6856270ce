"""Divergences between distributions over tokens."""

import math
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

Direction = Literal["forward", "reverse", "jsd"]
BLOCK = 2**21
"""Number of logits per block, so that a block fits into the processor's cache."""


def divergence(
    teacher: Float[Tensor, "... tokens"], student: Float[Tensor, "... tokens"], direction: Direction = "forward"
) -> Float[Tensor, "..."]:
    """Divergence between two distributions given as log-probabilities, in nats.

    With teacher P, student Q and M = (P + Q) / 2: "forward" is KL(P || Q), "reverse" is KL(Q || P), and "jsd" is the
    Jensen-Shannon divergence, (KL(P || M) + KL(Q || M)) / 2.

    Args:
        teacher: Log-probabilities.
        student: Log-probabilities of the same tokens.
        direction: Which divergence.
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
    """Divergence between two distributions given as logits, computed in single precision or better.

    The gradient flows into the student's logits only.

    Args:
        teacher: Logits.
        student: Logits of the same tokens.
        direction: See `divergence`.
        temperature: Softmax temperature of both distributions.
    """
    return _OfLogits.apply(student, teacher.detach(), direction, temperature)  # pyright: ignore[reportReturnType]


class _OfLogits(torch.autograd.Function):
    """Works block by block and computes the gradient in the forward pass, to hold no more memory than the gradient needs."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, direction: Direction, temperature: float) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        size = max(1, BLOCK // student.shape[-1])
        # Single precision: in half precision a small gradient may underflow before a later step scales it up.
        gradient = torch.empty_like(student, dtype=torch.promote_types(student.dtype, torch.float32))
        divergences: list[Tensor] = []
        blocks = zip(student.split(size), teacher.split(size), gradient.split(size), strict=True)
        for rows, teacher_rows, gradient_rows in blocks:
            with torch.enable_grad():
                student_rows = at_least_float32(rows.detach()).requires_grad_()
                p, q = ((logits / temperature).log_softmax(-1) for logits in (at_least_float32(teacher_rows), student_rows))
                block = divergence(p, q, direction)
                gradient_rows.copy_(torch.autograd.grad(block.sum(), student_rows)[0])
            divergences.append(block.detach())
        ctx.save_for_backward(gradient)
        ctx.dtype = student.dtype
        return torch.cat(divergences)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return (ctx.saved_tensors[0] * upstream[:, None]).to(ctx.dtype), None, None, None


def at_least_float32(x: Tensor) -> Tensor:
    """Convert to single precision, unless the type is wider already."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
