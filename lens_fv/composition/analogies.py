"""Analogies of relations, for fitting maps and for reporting; scored and batched once for fitting."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_fv.composition.basis import Basis
from lens_fv.composition.shape import LogitMap, ScoredPairs, scored_pairs
from lens_fv.composition.weights import Score, WeightMap, relation_scores
from lens_fv.core.choices import Count, Seed
from lens_fv.errors import LensFVError
from lens_fv.model.lens_model import LensModel
from lens_fv.tasks import (
    Analogy,
    Pair,
    PromptTemplate,
    encode_prompts,
    list_tasks,
    load_task,
    make_analogies,
    split_pairs,
    zero_shot,
)
from lens_fv.vectors.batches import Batch, open_batches

HELD_OUT_EVERY = 5
"""One in this number of relations is held out to choose a map."""


def training_analogies(
    names: Sequence[str], *, max_per_relation: Count = 12, seed: Seed = 0
) -> tuple[list[Analogy], list[Analogy]]:
    """Analogies of built-in relations for training, and those of every fifth relation for selection.

    A:B are training pairs and C:D are validation pairs; test pairs are not used.

    Args:
        names: Names of relations; those that are not built in are ignored.
        max_per_relation: Maximum number of analogies per relation.
        seed: Seed of splits and random draws.

    Raises:
        LensFVError: there are fewer than five built-in relations.
    """
    known = [name for name in names if name in list_tasks()]
    if len(known) < HELD_OUT_EVERY:
        raise LensFVError(
            f"analogies of {len(known)} built-in relations: learning and choosing takes at least {HELD_OUT_EVERY}"
        )
    parts: tuple[list[Analogy], list[Analogy]] = ([], [])
    for i, name in enumerate(known):
        task = load_task(name)
        split = split_pairs(task, seed=seed)
        parts[i % HELD_OUT_EVERY == HELD_OUT_EVERY - 1].extend(
            make_analogies(task, split.train, split.validation, n=max_per_relation, seed=seed)
        )
    return parts


def reported_analogies(names: Sequence[str], *, max_per_relation: Count = 10, seed: Seed = 0) -> list[Analogy]:
    """Analogies for reporting: A:B are training pairs, C:D are test pairs, and wrong choices are other test answers.

    Args:
        names: Names of relations, or files of pairs.
        max_per_relation: Maximum number of analogies per relation.
        seed: Seed of splits and random draws.
    """
    analogies: list[Analogy] = []
    for name in names:
        task = load_task(name)
        split = split_pairs(task, seed=seed)
        analogies += make_analogies(task, split.train, split.test, n=max_per_relation, seed=seed)
    return analogies


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
