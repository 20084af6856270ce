"""Joint training of vectors: many relations and several candidates for each, as rows of the same passes."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Parameter

from lens_fv.model.lens_model import LensModel
from lens_fv.vectors.batches import Batch, open_batches
from lens_fv.vectors.examples import FittingExamples
from lens_fv.vectors.fitting import CHECK_EVERY, Best, fit
from lens_fv.vectors.function_vector import FunctionVector
from lens_fv.vectors.options import Candidate, TuneConfig

PATIENCE = 15
"""Number of steps without a better validation score after which training of a relation stops."""


@dataclass
class TuningRun:
    """Training of one relation's vector.

    Attributes:
        examples: Prompts for training and for selection.
        norms: Typical norm of the residual stream after each layer.
        start: What the initial vectors are: "zero", "random" or the method of a given vector.
        initial: Initial vector of each candidate.
        alive: Candidates still in training.
        best: The best vector so far on the validation prompts.
    """

    examples: FittingExamples
    norms: Float[Tensor, " layers"]
    start: str
    initial: Float[Tensor, "candidates d_model"]
    alive: tuple[int, ...] = ()
    best: Best[Tensor] = field(default_factory=lambda: Best[Tensor]())


def train_vectors(
    model: LensModel,
    runs: Sequence[TuningRun],
    candidates: Sequence[Candidate],
    config: TuneConfig,
) -> list[FunctionVector]:
    """Train all candidates of all runs jointly, and return the best vector of each run.

    Training uses the full batch and Adam with a cosine schedule. After a quarter and after half of the steps, only the better
    half of each run's candidates continues, by validation log-probability.

    Raises:
        LensFVError: a loss is not finite, or no candidate of a run gives the validation answers a finite log-probability.
    """
    device, layers = model.device, [candidate.layer for candidate in candidates]
    starts = torch.stack([run.initial for run in runs]).to(device)
    norms = torch.stack([run.norms[layers] for run in runs]).to(device)[..., None]
    rates = torch.tensor([candidate.learning_rate for candidate in candidates], device=device)[None, :, None]
    anchors = starts if config.l2_to == "start" else torch.zeros_like(starts)
    # Adam's steps do not depend on the gradient's scale, so in these units one learning rate fits all.
    unit = rates * norms / math.sqrt(model.d_model)
    moved = Parameter(torch.zeros_like(starts))
    for run in runs:
        run.alive = tuple(range(len(candidates)))
    batches = _RunBatches(model, runs, layers)
    steps = config.steps
    halvings = {steps // 4, steps // 2}

    def loss() -> Float[Tensor, " runs"]:
        vectors = starts + moved * unit
        return batches.losses(vectors) + config.l2 * ((vectors - anchors) / norms).square().sum((1, 2))

    def check(step: int) -> bool:
        vectors = starts + moved * unit
        for index, scores in batches.validation_logprobs(vectors).items():
            run = runs[index]
            run.best.update(step, scores, lambda candidate, own=vectors[index]: own[candidate].float().cpu().clone())
            if step in halvings:
                order: list[int] = scores[list(run.alive)].argsort(descending=True).tolist()
                run.alive = tuple(sorted(run.alive[i] for i in order[: (len(order) + 1) // 2]))
            if step - run.best.step >= PATIENCE:
                run.alive = ()
        batches.regroup()
        return batches.unfinished

    fit(
        [moved],
        loss,
        check,
        steps=steps,
        checks={*range(0, steps, CHECK_EVERY), *halvings, steps},
        context="tuning",
        names=[run.examples.task.name for run in runs],
        progress=config.progress,
    )
    return [_vector(model, run, candidates, config) for run in runs]


def _vector(model: LensModel, run: TuningRun, candidates: Sequence[Candidate], config: TuneConfig) -> FunctionVector:
    vector = run.best.require(f"tune {run.examples.task.name} on {model.name}")
    layer, rate = candidates[run.best.candidate]
    options = {
        "l2": config.l2,
        "l2_to": config.l2_to,
        "start": run.start,
        "learning_rate": rate,
        **run.best.options,
        "candidates": [list(candidate) for candidate in candidates],
    }
    return FunctionVector(
        provenance=run.examples.provenance(model, "tuned", options),
        vector=vector,
        head_outputs=torch.zeros(0, model.d_head),
        layer=layer,
        resid_norm=float(run.norms[layer]),
    )


class _RunBatches:
    """The prompts of all runs, opened in groups of runs that have the same candidates left."""

    def __init__(self, model: LensModel, runs: Sequence[TuningRun], layers: Sequence[int]) -> None:
        self._model, self._runs, self._layers = model, runs, layers
        self._train: dict[tuple[int, ...], list[Batch]] = {}
        self._validation: dict[tuple[int, ...], list[Batch]] = {}
        self._alive: list[tuple[int, ...]] = []
        self.regroup()

    def regroup(self) -> None:
        """Open the prompts again if runs have lost candidates."""
        alive = [run.alive for run in self._runs]
        if alive == self._alive:
            return
        self._alive = alive
        groups = [candidates for candidates in dict.fromkeys(alive) if candidates]
        self._train = {group: self._opened(group, "train") for group in groups}
        self._validation = {group: self._opened(group, "validation") for group in groups}

    def _opened(self, group: tuple[int, ...], part: Literal["train", "validation"]) -> list[Batch]:
        members = [index for index, run in enumerate(self._runs) if run.alive == group]
        return open_batches(
            self._model, [(index, prompt) for index in members for prompt in getattr(self._runs[index].examples, part)]
        )

    @property
    def unfinished(self) -> bool:
        """Whether a run has candidates left."""
        return any(self._alive)

    def losses(self, vectors: Float[Tensor, "runs candidates d_model"]) -> Float[Tensor, " runs"]:
        """Loss of each run, summed over its candidates. Each prompt holds its own run's vectors only."""
        total = torch.zeros(len(self._runs), device=vectors.device)
        for alive, batches in self._train.items():
            layers = [self._layers[candidate] for candidate in alive]
            for batch in batches:
                owners = torch.tensor(batch.owners, device=vectors.device)
                sizes = vectors.new_tensor([len(self._runs[i].examples.train) for i in batch.owners])[:, None]
                losses = batch.losses(layers, vectors[:, list(alive)]) / sizes
                total = total.index_add(0, owners, losses.sum(1).to(total))
        return total

    def validation_logprobs(self, vectors: Float[Tensor, "runs candidates d_model"]) -> dict[int, Tensor]:
        """Mean log-probability of each run's validation answers, by candidate; minus infinity for those no longer trained."""
        means: dict[int, Tensor] = {}
        for alive, batches in self._validation.items():
            layers = [self._layers[candidate] for candidate in alive]
            rows: dict[int, list[Tensor]] = defaultdict(list)
            for batch in batches:
                logprobs = batch.read(layers, vectors[:, list(alive)]).sum(-1)
                for owner, row in zip(batch.owners, logprobs, strict=True):
                    rows[owner].append(row)
            for owner, own in rows.items():
                means[owner] = vectors.new_full((len(self._layers),), -math.inf)
                means[owner][list(alive)] = torch.stack(own).mean(0)
        return means
