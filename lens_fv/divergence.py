"""How far one distribution over tokens is from another."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Direction = Literal["forward", "reverse", "jsd"]


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
