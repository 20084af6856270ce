"""Analogies prepared for fitting: scored and batched once."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_fv.composition.basis import Basis
from lens_fv.composition.shape import LogitMap, ScoredPairs, scored_pairs
from lens_fv.composition.weights import Score, WeightMap, relation_scores
from lens_fv.model.lens_model import LensModel
from lens_fv.tasks import Analogy, Pair, PromptTemplate, encode_prompts, zero_shot
from lens_fv.vectors.batches import Batch, open_batches


class ScoredAnalogies:
    """Analogies with their scores, and their targets' prompts in batches."""

    def __init__(
        self,
        model: LensModel,
        basis: Basis,
        analogies: Sequence[Analogy],
        score: Score,
        template: PromptTemplate,
        exclude_own_relation: bool,
    ) -> None:
        self.basis = basis
        self.score: Score = score
        self._model, self._analogies, self._template = model, analogies, template
        self._scores = self._score_pairs([a.source for a in analogies])
        self._excluded = own_relations(basis, analogies).to(model.device) & exclude_own_relation
        self.encoded = encode_prompts(model, [zero_shot(a.target, template=template) for a in analogies])
        self.batches = open_batches(model, list(enumerate(self.encoded)), size=32)

    def _score_pairs(self, pairs: Sequence[Pair]) -> Float[Tensor, "pairs relations"]:
        return relation_scores(self._model, self.basis, pairs, score=self.score, template=self._template)

    def couples(self) -> ScoredPairs:
        """Scores of source pairs, coupled with those of target pairs of the same relation."""
        targets = self._score_pairs([Pair(a.c, (a.d[0],)) for a in self._analogies])
        words = [(a.a, a.c) for a in self._analogies]
        return scored_pairs([a.relation for a in self._analogies], words, self._scores, targets, self._excluded)

    def losses(self, batch: Batch, shape: LogitMap, scale: Tensor) -> Float[Tensor, " batch"]:
        """Mean negative log-probability of the answers' tokens under a map, for the analogies of a batch."""
        owners = list(batch.owners)
        weights = shape.logits(self._scores[owners], self._excluded[owners]).softmax(-1)
        vectors = scale * (weights @ self.basis.vectors)
        row_by_row = batch._replace(owners=tuple(range(len(owners))))
        return row_by_row.losses([self.basis.layer], vectors[:, None])[:, 0]

    def logprob_per_token(self, weight_map: WeightMap) -> float:
        """Mean log-probability of the answers under a map, in nats per token."""
        vectors = weight_map.scale * (weight_map.weights(self._scores, excluded=self._excluded) @ self.basis.vectors)
        losses = [batch.losses([self.basis.layer], vectors[:, None])[:, 0] for batch in self.batches]
        return -float(torch.cat(losses).mean())


def own_relations(basis: Basis, analogies: Sequence[Analogy]) -> Bool[Tensor, "analogies relations"]:
    """Mask of the basis vector that belongs to each analogy's own relation."""
    return torch.tensor([[name == a.relation for name in basis.names] for a in analogies])
