"""Analogies prepared for training: scored and batched once."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_fv.composition.library import Basis
from lens_fv.composition.shape import LogitMap, ScoredPairs, scored_pairs
from lens_fv.composition.weights import Score, WeightMap, relation_scores
from lens_fv.model.lens_model import LensModel
from lens_fv.tasks import Analogy, Pair, PromptTemplate, encode_prompts, zero_shot
from lens_fv.vectors.batches import Batch, open_batches


class AnalogyBatches:
    """Analogies with their scores and prepared batches."""

    def __init__(
        self,
        model: LensModel,
        basis: Basis,
        analogies: Sequence[Analogy],
        score: Score,
        template: PromptTemplate,
        exclude_own_relation: bool,
    ) -> None:
        self._model, self._basis, self._analogies, self._template = model, basis, analogies, template
        self._score: Score = score
        self.scores = relation_scores(model, basis, [a.source for a in analogies], score=score, template=template)
        self.excluded = own_relations(basis, analogies).to(model.device) & exclude_own_relation
        self.encoded = encode_prompts(model, [zero_shot(a.target, template=template) for a in analogies])
        self.batches = open_batches(model, list(enumerate(self.encoded)), size=32)

    def couples(self) -> ScoredPairs:
        """Scores of source pairs, coupled with those of target pairs of the same relation."""
        targets = [Pair(a.c, (a.d[0],)) for a in self._analogies]
        scores = relation_scores(self._model, self._basis, targets, score=self._score, template=self._template)
        words = [(a.a, a.c) for a in self._analogies]
        return scored_pairs([a.relation for a in self._analogies], words, self.scores, scores, self.excluded)

    def logits(self, batch: Batch, shape: LogitMap) -> Float[Tensor, "batch relations"]:
        """Logits of the softmax for the batch's analogies."""
        owners = list(batch.owners)
        return shape.logits(self.scores[owners], self.excluded[owners])

    def logprob_per_token(self, found: WeightMap) -> float:
        """Mean log-probability of the answers under a map, in nats per token."""
        vectors = found.scale * (found.weights(self.scores, excluded=self.excluded) @ self._basis.vectors)
        losses = [batch.losses([self._basis.layer], vectors[:, None])[:, 0] for batch in self.batches]
        return -float(torch.cat(losses).mean())

    def by_owner(self, vectors: Float[Tensor, "batch d_model"], batch: Batch) -> Float[Tensor, "owners 1 d_model"]:
        """Arrange the vectors of a batch by owner."""
        found = vectors.new_zeros(len(self.encoded), 1, vectors.shape[-1])
        return found.index_put((torch.tensor(batch.owners),), vectors[:, None])


def own_relations(basis: Basis, analogies: Sequence[Analogy]) -> Bool[Tensor, "analogies relations"]:
    """Mask of the basis vector that belongs to each analogy's own relation."""
    return torch.tensor([[name == a.relation for name in basis.names] for a in analogies])
