"""Learning a map's matrix and bias from scores alone, without a pass through the model."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import Parameter

from lens_fv.composition.weights import mean_for_excluded

Form = Literal["temperature", "diagonal", "full"]
CHECK_EVERY = 20
BATCH = 256
DECAYS = (1e-3, 1e-2, 1e-1)


class ScoredPairs(NamedTuple):
    """Couples of pairs of one relation: from the first pair's scores, the map should pick vectors that explain the second.

    Attributes:
        sources, targets: scores of the first and second pairs; see `relation_scores`.
        excluded: mask of relations that get no weight.
    """

    sources: Float[Tensor, "couples relations"]
    targets: Float[Tensor, "couples relations"]
    excluded: Bool[Tensor, "couples relations"]


class LogitMap(NamedTuple):
    """A map's matrix (one row: a diagonal) and bias; see `WeightMap`."""

    matrix: Float[Tensor, "rows relations"]
    bias: Float[Tensor, " relations"]

    def logits(self, scores: Float[Tensor, "pairs relations"]) -> Float[Tensor, "pairs relations"]:
        """Logits of the softmax."""
        return scores * self.matrix + self.bias if len(self.matrix) == 1 else scores @ self.matrix.T + self.bias

    def times(self, sharpness: Float[Tensor, ""]) -> "LogitMap":
        """Scale the logits, which makes the weights sharper or flatter."""
        return LogitMap(sharpness * self.matrix, sharpness * self.bias)


def fit_logit_map(
    form: Form,
    train: ScoredPairs,
    test: ScoredPairs,
    *,
    temperature: float,
    steps: int = 400,
    learning_rate: float = 0.01,
    decays: Sequence[float] = DECAYS,
    seed: int = 0,
) -> LogitMap:
    """Learn the matrix and bias, so that weights inferred from one pair explain another pair of its relation.

    Maximises sum_i w_i t_i, the expected score of the couple's second pair, with w = softmax(matrix · s + bias), by Adam from
    temperature x identity and zero bias. Over all weight decays and steps, the result that is best on `test` is kept, or the
    initial value if none is better.

    Args:
        form: "temperature" learns nothing here; "diagonal" and "full" learn such a matrix and a bias.
        train: couples for training.
        test: couples for model selection.
        temperature: factor of the identity in the initial matrix.
        steps: number of Adam steps.
        learning_rate: learning rate of Adam, in units of standardised scores.
        decays: candidate weights of the squared distance to the initial values.
        seed: seed of the batches.
    """
    n, device = train.sources.shape[-1], train.sources.device
    best = LogitMap(torch.full((1, n), temperature, device=device), torch.zeros(n, device=device))
    if form == "temperature":
        return best
    if form == "full":
        best = LogitMap(torch.diag(best.matrix[0]), best.bias)
    found = expected_score(best, test)
    centre, spread = train.sources.mean(0), train.sources.std(0).clamp(min=1e-6)
    for decay in decays:
        rng = torch.Generator().manual_seed(seed)
        moved, bias = Parameter(torch.zeros_like(best.matrix)), Parameter(torch.zeros(n, device=device))
        log_temperature = Parameter(torch.tensor(math.log(temperature), device=device))
        optimiser = torch.optim.Adam([moved, bias, log_temperature], lr=learning_rate)
        for step in range(1, steps + 1):
            some = torch.randint(len(train.sources), (BATCH,), generator=rng).to(device)
            with torch.enable_grad():
                shape = _folded(log_temperature.exp(), moved, bias, centre, spread)
                loss = -expected_score(shape, ScoredPairs(*(each[some] for each in train)))
                loss = loss + decay * (moved.square().sum() + bias.square().sum())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if step % CHECK_EVERY == 0:
                with torch.no_grad():
                    shape = _folded(log_temperature.exp(), moved, bias, centre, spread)
                    if (now := expected_score(shape, test)) > found:
                        best, found = shape, now
    return best


def expected_score(shape: LogitMap, couples: ScoredPairs) -> Float[Tensor, ""]:
    """Mean over couples of the targets' scores, weighted as the map weights their sources."""
    logits = shape.logits(mean_for_excluded(couples.sources, couples.excluded))
    weights = logits.masked_fill(couples.excluded, -torch.inf).softmax(-1)
    return (weights * couples.targets).sum(-1).mean()


def _folded(temperature: Tensor, moved: Tensor, bias: Tensor, centre: Tensor, spread: Tensor) -> LogitMap:
    """Fold temperature · s + moved · (standardised s) + bias into one matrix and bias.

    The full form subtracts each pair's mean from its standardised scores, because the difficulty of B says nothing about the
    relation.
    """
    n = len(bias)
    if len(moved) == 1:
        return LogitMap(temperature + moved / spread, bias - (moved * centre / spread)[0])
    rows = (moved - moved.mean(1, keepdim=True)) / spread
    return LogitMap(temperature * torch.eye(n, device=moved.device) + rows, bias - rows @ centre)


def scored_pairs(
    relations: Sequence[str],
    words: Sequence[tuple[str, str]],
    sources: Float[Tensor, "analogies relations"],
    targets: Float[Tensor, "analogies relations"],
    excluded: Bool[Tensor, "analogies relations"],
) -> ScoredPairs:
    """Couple every source with every target of its relation that does not share its input.

    Args:
        relations: relation of each analogy; analogies without one stay as they are.
        words: inputs of source and target.
        sources: scores of A:B.
        targets: scores of C:D.
        excluded: see `ScoredPairs`.
    """
    together: Int[Tensor, "couples 2"] = torch.tensor(
        [
            (i, j)
            for i, one in enumerate(relations)
            for j, other in enumerate(relations)
            if i == j or (one and one == other and words[i][0] != words[j][1])
        ]
    )
    return ScoredPairs(sources[together[:, 0]], targets[together[:, 1]], excluded[together[:, 0]])
