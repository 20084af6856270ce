"""The loop that fits everything learned here: Adam on a loss, and the choice of the best step on held-out data."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Parameter

from lens_fv.core.progress import progress_bar
from lens_fv.errors import LensFVError
from lens_fv.model.finite import loss_not_finite
from lens_fv.model.lens_model import LensModel
from lens_fv.vectors.batches import Batch, open_batches
from lens_fv.vectors.examples import FittingExamples

CHECK_EVERY = 5
"""Number of steps between checks on held-out data."""
R = TypeVar("R")


@dataclass
class Best(Generic[R]):
    """The best result so far on held-out data.

    Attributes:
        score: Its score; higher is better.
        step: Number of Adam steps that led to it.
        candidate: Its index among the candidates that are trained together.
        result: The result; None as long as no score was finite.
    """

    score: float = -math.inf
    step: int = 0
    candidate: int = 0
    result: R | None = None

    def update(self, step: int, scores: Float[Tensor, " candidates"], result: Callable[[int], R]) -> None:
        """Keep the result of the candidate with the highest score if no earlier score is as high."""
        candidate = int(scores.argmax())
        score = float(scores[candidate])
        if score > self.score:
            self.score, self.step, self.candidate, self.result = score, step, candidate, result(candidate)

    def require(self, context: str) -> R:
        """The result.

        Raises:
            LensFVError: no score was finite.
        """
        if self.result is None:
            raise LensFVError(f"{context}: no step gives the held-out answers a finite score; run verify on the model")
        return self.result

    @property
    def options(self) -> dict[str, int | float]:
        """The options to record in the provenance."""
        return {"best_step": self.step, "validation_logprob": self.score}


def fit_answers(
    model: LensModel,
    examples: FittingExamples,
    parameters: Sequence[Parameter],
    logprobs: Callable[[Batch], Float[Tensor, "prompts candidates"]],
    result: Callable[[int], R],
) -> Best[R]:
    """Fit candidates together to training answers; keep the step and candidate with the likeliest validation answers.

    `logprobs` returns the log-probabilities of a batch's answers under each candidate, `result` the result of a candidate. The
    loss is the mean negative log-probability of the training answers' tokens, and the learning rate of Adam is 1.

    Raises:
        LensFVError: a loss is not finite, or no score was.
    """
    best = Best[R]()
    train, validation = (
        open_batches(model, [(0, prompt) for prompt in prompts]) for prompts in (examples.train, examples.validation)
    )

    def loss() -> Tensor:
        losses = [(-logprobs(batch) / batch.lengths(model.device)).sum() for batch in train]
        return torch.stack(losses).sum() / len(examples.train)

    def check(step: int) -> None:
        best.update(step, torch.cat([logprobs(batch) for batch in validation]).mean(0), result)

    config = examples.config
    fit(parameters, loss, check, steps=config.steps, context=examples.context, progress=config.progress)
    best.require(examples.context)
    return best


def fit(
    parameters: Sequence[Parameter],
    loss: Callable[[], Float[Tensor, "*runs"]],
    check: Callable[[int], bool | None],
    *,
    steps: int,
    context: str,
    names: Sequence[str] = (),
    checks: Collection[int] | None = None,
    learning_rate: float = 1.0,
    cosine: bool = True,
    progress: bool = False,
) -> None:
    """Minimise a loss by Adam, and check the result on held-out data from time to time.

    Args:
        parameters: Parameters to train.
        loss: Returns the loss, or one loss per run if several independent runs are trained together.
        check: Called without gradients with the number of steps taken so far, usually to call `Best.update`. If it returns
            False, training ends.
        steps: Maximum number of steps.
        context: What is fitted, for the progress bar and errors.
        names: Names of the runs, for errors.
        checks: Numbers of steps after which `check` is called; default: every fifth, and at the end.
        learning_rate: Learning rate of Adam.
        cosine: Whether the learning rate decays to 0 along a cosine; otherwise it is constant.
        progress: Show a progress bar.

    Raises:
        LensFVError: a loss is not finite; the message names the step and the runs.
    """
    checks = {*range(0, steps, CHECK_EVERY), steps} if checks is None else checks
    optimiser = torch.optim.Adam(list(parameters), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=max(steps, 1)) if cosine else None
    with progress_bar(context, steps, show=progress) as tick:
        for step in range(steps + 1):
            if step in checks:
                with torch.no_grad():
                    unfinished = check(step)
                if unfinished is False:
                    return
            if step == steps:
                return
            with torch.enable_grad():
                losses = loss()
                total = losses.sum()
            if not torch.isfinite(total):
                finite: list[bool] = losses.isfinite().flatten().tolist()
                affected = [name for name, is_finite in zip(names, finite) if not is_finite]
                raise loss_not_finite(" ".join([context, *affected]), float(total.detach()), step)
            optimiser.zero_grad()
            total.backward()
            optimiser.step()
            if schedule is not None:
                schedule.step()
            tick()
