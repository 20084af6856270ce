"""Joint training of vectors: many relations and several candidates for each, as rows of the same passes."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.core.progress import progress_bar
from lens_fv.model.finite import loss_not_finite
from lens_fv.model.lens_model import LensModel
from lens_fv.tasks import EncodedPrompt
from lens_fv.vectors.batches import Batch, open_batches

CHECK_EVERY = 5
PATIENCE = 15
"""Number of steps without a better validation score after which training of a relation stops."""


class Candidate(NamedTuple):
    """The layer of a vector and its learning rate (see `tune`)."""

    layer: int
    learning_rate: float


@dataclass
class TuningRun:
    """Training data and state of one relation's vector.

    Attributes:
        name: Name of the relation.
        train, held_out: Prompts for training and for selection.
        units: Typical norm of the residual stream after each layer.
        starts: Initial vector of each candidate.
        alive: Candidates still in training.
        logprob, candidate, step, vector: The best result so far on the held-out prompts.
    """

    name: str
    train: Sequence[EncodedPrompt]
    held_out: Sequence[EncodedPrompt]
    units: Float[Tensor, " layers"]
    starts: Float[Tensor, "candidates d_model"]
    alive: tuple[int, ...] = ()
    logprob: float = -math.inf
    candidate: int = 0
    step: int = 0
    vector: Tensor | None = None


def train(
    model: LensModel,
    courses: Sequence[TuningRun],
    candidates: Sequence[Candidate],
    *,
    steps: int,
    l2: float,
    l2_to_start: bool,
    progress: bool,
) -> None:
    """Train all candidates of all runs jointly, and store the best vector found in each run.

    Training uses the full batch and Adam with a cosine schedule. After a quarter and after half of the steps, only the better
    half of each run's candidates continues, by held-out log-probability.

    Raises:
        LensFVError: a loss is not finite.
    """
    device, layers = model.device, [c.layer for c in candidates]
    starts = torch.stack([course.starts for course in courses]).to(device)
    norms = torch.stack([course.units[layers] for course in courses]).to(device)[..., None]
    rates = torch.tensor([c.learning_rate for c in candidates], device=device)[None, :, None]
    anchors = starts if l2_to_start else torch.zeros_like(starts)
    # Adam's steps do not depend on the gradient's scale, so in these units one learning rate fits all.
    moved = torch.nn.Parameter(torch.zeros_like(starts))
    unit = rates * norms / math.sqrt(model.d_model)
    optimiser = torch.optim.Adam([moved], lr=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=max(steps, 1))
    for course in courses:
        course.alive = tuple(range(len(candidates)))
    classes = _Classes(model, courses)
    with progress_bar("tuning", steps, show=progress) as tick:
        for step in range(steps + 1):
            halve = step in (steps // 4, steps // 2)
            if step % CHECK_EVERY == 0 or halve or step == steps:
                with torch.no_grad():
                    _choose(classes, courses, layers, starts + moved * unit, step, halve=halve)
                classes = classes.regrouped()
            if step == steps or not classes.groups:
                break
            with torch.enable_grad():
                vectors = starts + moved * unit
                losses = [
                    batch.losses([layers[c] for c in alive], vectors[:, list(alive)]) / classes.sizes(batch)
                    for alive, batches in classes.training.items()
                    for batch in batches
                ]
                # Each row holds one vector, so the gradient of the sum trains each vector on its own loss.
                total = torch.stack([loss.sum() for loss in losses]).sum()
                total = total + l2 * ((vectors - anchors) / norms).square().sum()
            if not torch.isfinite(total):
                bad = ", ".join(sorted(classes.not_finite(losses)))
                raise loss_not_finite(f"tune {bad} on {model.name}", float(total.detach()), step)
            optimiser.zero_grad()
            total.backward()
            optimiser.step()
            schedule.step()
            tick()


def _choose(
    classes: "_Classes", courses: Sequence[TuningRun], layers: Sequence[int], vectors: Tensor, step: int, *, halve: bool
) -> None:
    """Record every run's best candidate; drop the worse half if `halve`, and runs that no longer improve."""
    for alive, batches in classes.validation.items():
        found: dict[int, list[Tensor]] = defaultdict(list)
        for batch in batches:
            logprobs = batch.read([layers[c] for c in alive], vectors[:, list(alive)]).sum(-1)
            for owner, scores in zip(batch.owners, logprobs, strict=True):
                found[owner].append(scores)
        for owner, each in found.items():
            course, scores = courses[owner], torch.stack(each).mean(0)
            best = int(scores.argmax())
            if float(scores[best]) > course.logprob:
                course.logprob, course.candidate, course.step = float(scores[best]), alive[best], step
                course.vector = vectors[owner, alive[best]].detach().float().cpu().clone()
            if halve:
                course.alive = tuple(alive[i] for i in scores.argsort(descending=True)[: (len(alive) + 1) // 2].tolist())
            if step - course.step >= PATIENCE:
                course.alive = ()


class _Classes:
    """The prompts of all runs, opened in groups of runs that have the same candidates left."""

    def __init__(self, model: LensModel, courses: Sequence[TuningRun]) -> None:
        self._model, self._courses = model, courses
        self.groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, course in enumerate(courses):
            if course.alive:
                self.groups[tuple(sorted(course.alive))].append(index)
        self.training = {alive: self._open(members, "train") for alive, members in self.groups.items()}
        self.validation = {alive: self._open(members, "held_out") for alive, members in self.groups.items()}

    def _open(self, members: Sequence[int], part: str) -> list[Batch]:
        return open_batches(self._model, [(i, prompt) for i in members for prompt in getattr(self._courses[i], part)])

    def regrouped(self) -> "_Classes":
        """This object, or a new one if runs have lost candidates."""
        now = {i: tuple(sorted(self._courses[i].alive)) for members in self.groups.values() for i in members}
        same = all(now[i] == alive for alive, members in self.groups.items() for i in members)
        return self if same else _Classes(self._model, self._courses)

    def sizes(self, batch: Batch) -> Float[Tensor, "prompts 1"]:
        """For each prompt, the number of prompts in its run."""
        sizes = [len(self._courses[owner].train) for owner in batch.owners]
        return torch.tensor(sizes, device=self._model.device, dtype=torch.float32)[:, None]

    def not_finite(self, losses: Sequence[Tensor]) -> set[str]:
        """Names of the runs with a loss that is not finite."""
        batches = [batch for group in self.training.values() for batch in group]
        return {
            self._courses[owner].name
            for batch, loss in zip(batches, losses, strict=True)
            for owner, finite in zip(batch.owners, loss.isfinite().all(1).tolist(), strict=True)
            if not finite
        }
