"""Adam on a few pairs, chosen on others: what all learned kinds have in common."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from lens_fv.core.progress import progress_bar
from lens_fv.errors import LensFVError
from lens_fv.model.finite import loss_not_finite

CHECK_EVERY = 5


class Fit(NamedTuple):
    """The best that training met.

    Attributes:
        step: of Adam; 0 is the start.
        candidate: which of those trained side by side.
        logprob: of the validation answers, in nats.
        values: what the parameters were.
    """

    step: int
    candidate: int
    logprob: float
    values: list[Tensor]

    @property
    def options(self) -> dict[str, int | float]:
        """What provenance records of it."""
        return {"best_step": self.step, "validation_logprob": self.logprob}


def fit(
    parameters: Sequence[Parameter],
    loss: Callable[[], Tensor],
    score: Callable[[], Tensor],
    *,
    learning_rate: float = 1.0,
    steps: int,
    what: str,
    progress: bool = False,
) -> Fit:
    """Minimise a loss by full-batch Adam with a cosine schedule, and keep the values that score best.

    Args:
        parameters: what is trained.
        loss: of the training pairs.
        score: mean log-probability of the validation pairs' answers, for each candidate; asked at every fifth step.
        learning_rate: of Adam.
        steps: of Adam.
        what: is trained: for the error and the progress bar.
        progress: draw a progress bar.

    Raises:
        LensFVError: a loss or all scores that are not finite.
    """
    optimiser = torch.optim.Adam(list(parameters), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=max(steps, 1))
    best = Fit(0, 0, -math.inf, [])
    with progress_bar(what, steps, show=progress) as tick:
        for step in range(steps + 1):
            if step % CHECK_EVERY == 0 or step == steps:
                with torch.no_grad():
                    scores = score()
                found = int(scores.argmax())
                if float(scores[found]) > best.logprob:
                    best = Fit(step, found, float(scores[found]), [p.detach().clone() for p in parameters])
            if step == steps:
                break
            with torch.enable_grad():
                value = loss()
            if not torch.isfinite(value):
                raise loss_not_finite(what, float(value.detach()), step)
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
            schedule.step()
            tick()
    if not best.values:
        raise LensFVError(f"{what}: no step gives the validation answers a finite log-probability; run verify on the model")
    return best
