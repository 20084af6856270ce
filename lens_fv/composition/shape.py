"""Learning a map's matrix and bias from scores alone, without a pass through the model."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import Parameter

from lens_fv.vectors.fitting import Best, fit

Form = Literal["temperature", "diagonal", "full"]
CHECK_EVERY = 20
BATCH = 256
LEARNING_RATE = 0.01
DECAYS = (1e-3, 1e-2, 1e-1)


class ScoredPairs(NamedTuple):
    """Couples of pairs of one relation: from the first pair's scores, the map should pick vectors that explain the second.

    Attributes:
        sources, targets: Scores of the first and second pairs; see `relation_scores`.
        excluded: Mask of relations that get no weight.
    """

    sources: Float[Tensor, "couples relations"]
    targets: Float[Tensor, "couples relations"]
    excluded: Bool[Tensor, "couples relations"]


class LogitMap(NamedTuple):
    """A map's matrix (one row: a diagonal) and bias; see `WeightMap`."""

    matrix: Float[Tensor, "rows relations"]
    bias: Float[Tensor, " relations"]

    def logits(
        self, scores: Float[Tensor, "pairs relations"], excluded: Bool[Tensor, "pairs relations"] | None = None
    ) -> Float[Tensor, "pairs relations"]:
        """Logits of the softmax: matrix · scores + bias.

        Excluded relations get no weight, and their scores are replaced by the mean of the others, so that they carry no
        information.
        """
        if excluded is not None:
            others = (~excluded).to(scores)
            mean = (scores * others).sum(-1, keepdim=True) / others.sum(-1, keepdim=True)
            scores = torch.where(excluded, mean, scores)
        matrix, bias = self.matrix.to(scores), self.bias.to(scores)
        logits = scores * matrix + bias if len(matrix) == 1 else scores @ matrix.T + bias
        return logits if excluded is None else logits.masked_fill(excluded, -torch.inf)

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
    seed: int = 0,
) -> LogitMap:
    """Learn the matrix and bias, so that weights inferred from one pair explain another pair of its relation.

    Maximises sum_i w_i t_i, the expected score of the couple's second pair, with w = softmax(matrix · s + bias), by Adam (in
    units of standardised scores) from temperature x identity and zero bias. `DECAYS` are candidate weights of the squared
    distance to these initial values. Over all decays and steps, the result that is best on `test` is kept, or the initial value
    if none is better; the form "temperature" is the initial value.
    """
    n, device = train.sources.shape[-1], train.sources.device
    start = LogitMap(torch.full((1, n), temperature, device=device), torch.zeros(n, device=device))
    if form == "temperature":
        return start
    if form == "full":
        start = LogitMap(torch.diag(start.matrix[0]), start.bias)
    best = Best(float(expected_score(start, test)), result=start)
    centre, spread = train.sources.mean(0), train.sources.std(0).clamp(min=1e-6)

    def fit_with(decay: float) -> None:
        rng = torch.Generator().manual_seed(seed)
        moved, bias = Parameter(torch.zeros_like(start.matrix)), Parameter(torch.zeros(n, device=device))
        log_temperature = Parameter(torch.tensor(math.log(temperature), device=device))

        def shape() -> LogitMap:
            return _folded(log_temperature.exp(), moved, bias, centre, spread)

        def loss() -> Tensor:
            rows = torch.randint(len(train.sources), (BATCH,), generator=rng).to(device)
            batch = ScoredPairs(*(values[rows] for values in train))
            return decay * (moved.square().sum() + bias.square().sum()) - expected_score(shape(), batch)

        def check(step: int) -> None:
            learned = shape()
            best.update(step, expected_score(learned, test)[None], lambda _: learned)

        # Not before the first step, where the start would differ from itself by rounding.
        checks = range(CHECK_EVERY, steps + 1, CHECK_EVERY)
        parameters, context = [moved, bias, log_temperature], "a map from scores to weights"
        fit(parameters, loss, check, steps=steps, context=context, checks=checks, learning_rate=LEARNING_RATE, cosine=False)

    for decay in DECAYS:
        fit_with(decay)
    return best.require("a map's shape")


def expected_score(shape: LogitMap, couples: ScoredPairs) -> Float[Tensor, ""]:
    """Mean over couples of the targets' scores, weighted as the map weights their sources."""
    weights = shape.logits(couples.sources, couples.excluded).softmax(-1)
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
    """Couple every source (A:B) with every target (C:D) of its relation that does not share its input.

    `words` are the inputs of source and target. Analogies without a relation stay as they are.
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
