"""The fitting loop shared by the learned baselines: Adam on training pairs, selection on validation pairs."""

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
    """The best result of training.

    Attributes:
        step: Adam step; 0 is the start.
        candidate: Index among the candidates trained together.
        logprob: Log-probability of the validation answers, in nats.
        values: Values of the parameters at that step.
    """

    step: int
    candidate: int
    logprob: float
    values: list[Tensor]

    @property
    def options(self) -> dict[str, int | float]:
        """The options to record in the provenance."""
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
        parameters: Parameters to train.
        loss: Returns the loss of the training pairs.
        score: Returns each candidate's mean log-probability of the validation answers; called every fifth step.
        learning_rate: Learning rate of Adam.
        steps: Number of Adam steps.
        what: Name of the trained object, for the error and the progress bar.
        progress: Show a progress bar.

    Raises:
        LensFVError: a loss is not finite, or no score is.
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
