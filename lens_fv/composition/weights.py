"""Scores of basis vectors on pairs, and maps from scores to weights."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_fv.composition.basis import Basis
from lens_fv.composition.shape import LogitMap
from lens_fv.core.artefact import Artefact, require_shape
from lens_fv.core.choices import Count, Finite, checked
from lens_fv.core.progress import progress_bar
from lens_fv.core.tables import DataFrame, data_frame
from lens_fv.errors import LensFVError
from lens_fv.model.lens_model import LensModel
from lens_fv.tasks import TODD, Pair, PromptTemplate, encode_prompts, zero_shot
from lens_fv.vectors.batches import BATCH, Batch, open_batches

Score = Literal["logprob", "prob"]


@checked
@torch.no_grad()
def relation_scores(
    model: LensModel,
    basis: Basis,
    pairs: Sequence[Pair],
    *,
    score: Score = "logprob",
    template: PromptTemplate = TODD,
    progress: bool = False,
) -> Float[Tensor, "pairs relations"]:
    """Score how well each basis vector, added to a pair's zero-shot prompt, elicits its (primary) output.

    Args:
        model: Model.
        basis: Basis vectors, all run as branches of the same passes.
        pairs: Pairs, scored independently.
        score: "logprob": mean log-probability of the output's tokens, in nats; "prob": probability of the output.
        template: Prompt template.
        progress: Show a progress bar.

    Example:
        >>> basis = library.basis(model)
        >>> lens_fv.composition.relation_scores(model, basis, [lens_fv.Pair('hot', ('cold',))]).shape
        torch.Size([1, 2])
    """
    # A small batch is enough to fill the machine, because prompts of a batch share no row.
    batches = _batches_by_pair(model, pairs, template, size=8)
    scores = torch.empty(len(pairs), len(basis.names), device=model.device)
    vectors = basis.vectors[None].expand(len(pairs), -1, -1)
    with progress_bar("scoring pairs", len(batches), show=progress) as tick:
        for batch in batches:
            logprobs = batch.read([basis.layer] * len(basis.names), vectors).sum(-1)
            scores[list(batch.owners)] = logprobs / batch.lengths(model.device) if score == "logprob" else logprobs.exp()
            tick()
    return scores


@torch.no_grad()
def source_gain(
    model: LensModel,
    layer: int,
    vectors: Float[Tensor, "pairs d_model"],
    pairs: Sequence[Pair],
    *,
    template: PromptTemplate = TODD,
) -> Float[Tensor, " pairs"]:
    """Gain in log-probability of each pair's (primary) output from its own vector, zero-shot, in nats per token."""
    gains = torch.empty(len(pairs), device=model.device)
    for batch in _batches_by_pair(model, pairs, template, size=BATCH):
        logprobs = batch.read([layer], vectors[:, None], plain=True).sum(-1) / batch.lengths(model.device)
        gains[list(batch.owners)] = logprobs[:, 1] - logprobs[:, 0]
    return gains


def _batches_by_pair(model: LensModel, pairs: Sequence[Pair], template: PromptTemplate, size: int) -> list[Batch]:
    """Zero-shot prompts of pairs, each with vectors of its own."""
    encoded = encode_prompts(model, [zero_shot(pair, template=template) for pair in pairs])
    return open_batches(model, list(enumerate(encoded)), size=size)


@checked
@dataclass(frozen=True, repr=False, eq=False)
class WeightMap(Artefact):
    """A map from scores to weights, softmax(matrix · scores + bias), with a scale (Kang, Wu and Lu 2026).

    Attributes:
        names: Names of the basis vectors, in order.
        matrix: Full matrix, or its diagonal as one row.
        bias: One value per relation.
        scale: Factor of the weighted sum before it is added to the residual stream.
        score: Kind of scores it expects; see `relation_scores`.
    """

    names: tuple[str, ...]
    matrix: Float[Tensor, "rows relations"]
    bias: Float[Tensor, " relations"]
    scale: Finite = 1.0
    score: Score = "logprob"

    def __post_init__(self) -> None:
        """Check shapes."""
        n = len(self.names)
        require_shape("weight map's matrix", self.matrix, (1 if len(self.matrix) == 1 else n, n))
        require_shape("weight map's bias", self.bias, (n,))

    @property
    def shape(self) -> LogitMap:
        """Matrix and bias."""
        return LogitMap(self.matrix, self.bias)

    @checked
    def weights(
        self,
        scores: Float[Tensor, "pairs relations"],
        *,
        excluded: Bool[Tensor, "pairs relations"] | None = None,
        top_k: Count | None = None,
    ) -> Float[Tensor, "pairs relations"]:
        """Turn scores into weights that are nonnegative and sum to one.

        Args:
            scores: See `relation_scores`.
            excluded: Mask of relations that get no weight and do not influence the others'.
            top_k: Number of highest weights to keep; default: all.

        Raises:
            LensFVError: scores of another basis, or no weight left.
        """
        if scores.shape[-1] != len(self.names):
            raise LensFVError(f"weigh {scores.shape[-1]} scores: the map is for a basis of {len(self.names)}; fit it again")
        if excluded is not None and bool(excluded.all(-1).any()):
            raise LensFVError("weigh scores: every relation is left out; the basis needs others")
        logits = self.shape.logits(scores, excluded)
        if top_k is not None and top_k < logits.shape[-1]:
            logits = logits.masked_fill(logits < logits.topk(top_k, -1).values[..., -1:], -torch.inf)
        return logits.softmax(-1)

    def without(self, *names: str) -> "WeightMap":
        """Return the map for a basis without some relations."""
        kept = [i for i, name in enumerate(self.names) if name not in names]
        matrix = self.matrix[:, kept]
        if len(matrix) > 1:
            matrix = matrix[kept]
        return replace(self, names=tuple(self.names[i] for i in kept), matrix=matrix, bias=self.bias[kept])

    def to_dataframe(self) -> DataFrame:
        """One row per entry of the matrix: the factor of a score in a relation's logit; and the relation's bias."""
        matrix = self.matrix if len(self.matrix) > 1 else torch.diag(self.matrix[0])
        return data_frame(
            {"relation": relation, "score_of": name, "factor": float(matrix[i, j]), "bias": float(self.bias[i])}
            for i, relation in enumerate(self.names)
            for j, name in enumerate(self.names)
            if len(self.matrix) > 1 or i == j
        )

    def summary(self) -> dict[str, str]:
        """See `Artefact.summary`."""
        form = "diagonal" if len(self.matrix) == 1 else "full"
        return super().summary() | {"relations": str(len(self.names)), "matrix": form, "scale": f"{self.scale:.2f}"}
