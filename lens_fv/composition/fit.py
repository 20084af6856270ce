"""A map from scores to weights, learned on analogies."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_fv.artefact import Provenance
from lens_fv.composition.compose import TEMPERATURE
from lens_fv.composition.library import Basis, VectorLibrary
from lens_fv.composition.weights import Score, WeightMap, relation_scores
from lens_fv.errors import LensFVError
from lens_fv.model.lens_model import LensModel
from lens_fv.progress import progress_bar
from lens_fv.tasks import TODD, Analogy, PromptTemplate, Task, encode_prompts, zero_shot
from lens_fv.vectors.batches import Batch, open_batches

Form = Literal["temperature", "diagonal", "full"]


def fit_map(
    model: LensModel,
    library: VectorLibrary,
    analogies: Sequence[Analogy],
    held_out: Sequence[Analogy],
    *,
    form: Form = "diagonal",
    score: Score = "logprob",
    epochs: int = 8,
    learning_rate: float = 0.02,
    l2: float = 1e-3,
    leave_own_out: bool = True,
    template: PromptTemplate = TODD,
    seed: int = 0,
    progress: bool = False,
) -> WeightMap:
    """Learn the map that makes D likely behind C, the model and the basis frozen (Kang, Wu and Lu 2026).

    Minimises the mean negative log-probability of the answers' tokens under scale x softmax(matrix · scores + bias), from
    matrix = 3 x identity and scale 1, by Adam in batches of answers of like length. The epoch that makes the held-out answers
    likeliest is kept.

    Args:
        model: the model.
        library: the basis.
        analogies: to learn from. Of training relations only, if it is to hold for others.
        held_out: to choose the epoch on, better of other relations than the training ones.
        form: of the matrix: one number, its diagonal, or all of it. All but the number have a bias.
        score: see `relation_scores`.
        epochs: over the analogies.
        learning_rate: of Adam; the matrix' entries are of the order of 1.
        l2: weight of the mean squared distance of matrix and bias to where they started.
        leave_own_out: give a relation's own vector no weight in its analogies, as if it were new.
        template: how prompts are written.
        seed: of the order of batches.
        progress: draw a progress bar.

    Raises:
        LensFVError: no analogies, an empty or mixed library, or a loss that is not finite.
    """
    if not analogies or not held_out:
        raise LensFVError(f"fit a map on {len(analogies)} analogies, {len(held_out)} held out: give some of both")
    basis = library.basis(model)
    train = _Problems(model, basis, analogies, score, template, leave_own_out)
    test = _Problems(model, basis, held_out, score, template, leave_own_out)
    n, device = len(basis.names), model.device
    start = torch.full((1, n), TEMPERATURE, device=device) if form != "full" else TEMPERATURE * torch.eye(n, device=device)
    moved = torch.nn.Parameter(torch.zeros(() if form == "temperature" else start.shape, device=device))
    bias = torch.nn.Parameter(torch.zeros(n, device=device), requires_grad=form != "temperature")
    log_scale = torch.nn.Parameter(torch.zeros((), device=device))
    optimiser = torch.optim.Adam([p for p in (moved, bias, log_scale) if p.requires_grad], lr=learning_rate)
    options: dict[str, Any] = {"form": form, "score": score, "epochs": epochs, "learning_rate": learning_rate, "l2": l2}
    provenance = Provenance.of(
        model,
        task=f"{len(analogies)} analogies of {len({a.relation for a in analogies})} relations",
        task_hash=Task("analogies", tuple(a.target for a in analogies)).fingerprint,
        prompts=[prompt.tokens for prompt in train.encoded],
        seed=seed,
        method="fitted",
        options=options | {"leave_own_out": leave_own_out},
    )

    def now() -> WeightMap:
        return WeightMap(
            provenance=provenance,
            names=basis.names,
            matrix=(start + moved).detach().float().cpu(),
            bias=bias.detach().float().cpu(),
            scale=float(log_scale.detach().exp()),
            score=score,
        )

    best, kept = -math.inf, now()
    rng = torch.Generator().manual_seed(seed)
    with progress_bar("fitting weights", epochs * len(train.batches), show=progress) as tick:
        for epoch in range(epochs + 1):
            with torch.no_grad():
                found = test.mean_logprob(now())
            if found > best:
                best, kept = found, now()
            if epoch == epochs:
                break
            for at in torch.randperm(len(train.batches), generator=rng).tolist():
                batch = train.batches[at]
                with torch.enable_grad():
                    logits = train.logits(batch, start + moved, bias)
                    vectors = log_scale.exp() * (logits.softmax(-1) @ basis.vectors)
                    loss = batch.losses([basis.layer], _by_owner(vectors, batch, len(analogies))).mean()
                    loss = loss + l2 * (moved.square().mean() + bias.square().mean())
                if not torch.isfinite(loss):
                    raise LensFVError(
                        f"fit a map on {model.name}: the loss is not finite in epoch {epoch}; lower the learning rate"
                    )
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                tick()
    return kept


class _Problems:
    """Analogies, scored and opened."""

    def __init__(
        self,
        model: LensModel,
        basis: Basis,
        analogies: Sequence[Analogy],
        score: Score,
        template: PromptTemplate,
        leave_own_out: bool,
    ) -> None:
        self._basis = basis
        self.scores = relation_scores(model, basis, [a.source for a in analogies], score=score, template=template)
        self.left_out = own_relations(basis, analogies).to(model.device) & leave_own_out
        self.encoded = encode_prompts(model, [zero_shot(a.target, template=template) for a in analogies])
        self.batches = open_batches(model, list(enumerate(self.encoded)), size=32)

    def logits(self, batch: Batch, matrix: Tensor, bias: Tensor) -> Tensor:
        """What the softmax is taken of, for the batch's analogies."""
        owners = list(batch.owners)
        scores, left_out = self.scores[owners], self.left_out[owners]
        kept = (~left_out).to(scores)
        scores = torch.where(left_out, (scores * kept).sum(-1, keepdim=True) / kept.sum(-1, keepdim=True), scores)
        logits = scores * matrix + bias if len(matrix) == 1 else scores @ matrix.T + bias
        return logits.masked_fill(left_out, -torch.inf)

    def mean_logprob(self, found: WeightMap) -> float:
        """Of the answers' tokens, per token, with a map."""
        vectors = found.scale * (found.weights(self.scores, left_out=self.left_out) @ self._basis.vectors)
        losses = [batch.losses([self._basis.layer], vectors[:, None])[:, 0] for batch in self.batches]
        return -float(torch.cat(losses).mean())


def own_relations(basis: Basis, analogies: Sequence[Analogy]) -> Bool[Tensor, "analogies relations"]:
    """Which basis vector is that of each analogy's own relation."""
    return torch.tensor([[name == a.relation for name in basis.names] for a in analogies])


def _by_owner(vectors: Float[Tensor, "batch d_model"], batch: Batch, n: int) -> Float[Tensor, "owners 1 d_model"]:
    """The batch's vectors, where its owners look for them."""
    return vectors.new_zeros(n, 1, vectors.shape[-1]).index_put((torch.tensor(batch.owners),), vectors[:, None])
