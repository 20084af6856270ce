"""Composite vectors: the mixture of known relations that explains one or more pairs A:B."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.composition.basis import Basis
from lens_fv.composition.library import VectorLibrary
from lens_fv.composition.weights import Score, WeightMap, relation_scores, source_gain
from lens_fv.core.artefact import Provenance, require_shape
from lens_fv.core.choices import Count, Finite, Positive, checked
from lens_fv.core.tables import DataFrame, data_frame
from lens_fv.errors import LensFVError
from lens_fv.model.lens_model import LensModel
from lens_fv.tasks import TODD, Pair, PromptTemplate, Task, encode_prompts, zero_shot
from lens_fv.vectors import FunctionVector

TEMPERATURE = 3.0
"""Factor of the mean log-probabilities before the softmax when no map is given."""


@checked
@dataclass(frozen=True, repr=False, eq=False)
class CompositeVector(FunctionVector):
    """A weighted sum of known relations' vectors, with weights inferred from one or more pairs (Kang, Wu and Lu 2026).

    Attributes:
        names: Names of the relations.
        weights: Weight of each relation; they sum to one.
        scores: Mean score of the pairs under each relation.
        stability: Mean overlap, from 0 to 1, of the weights inferred from each pair alone; 1 for a single pair.
        source_gain: Increase in the log-probability of B after A, in nats per token, averaged over pairs.

    Example:
        >>> vector = lens_fv.compose(model, library, lens_fv.Pair('tall', ('short',)))
        >>> abs(float(vector.weights.sum()) - 1) < 1e-5
        True
    """

    names: tuple[str, ...] = ()
    weights: Float[Tensor, " relations"] = field(default_factory=lambda: torch.empty(0))
    scores: Float[Tensor, " relations"] = field(default_factory=lambda: torch.empty(0))
    stability: float = 1.0
    source_gain: float = 0.0

    def __post_init__(self) -> None:
        """Check shapes in addition to those of a function vector."""
        super().__post_init__()
        require_shape("composite's weights", self.weights, (len(self.names),))
        require_shape("composite's scores", self.scores, (len(self.names),))

    @property
    def entropy(self) -> float:
        """Entropy of the weights in nats: 0 for a single relation, log(n) for uniform weights."""
        return float(torch.special.entr(self.weights).sum())

    @property
    def coverage(self) -> float:
        """Share of the weight on relations with above-average scores."""
        return float(self.weights[self.scores > self.scores.mean()].sum())

    @checked
    def top(self, k: Count = 5) -> list[tuple[str, float]]:
        """The `k` relations of largest weight, with their weights."""
        order: list[int] = self.weights.argsort(descending=True, stable=True)[:k].tolist()
        return [(self.names[i], float(self.weights[i])) for i in order]

    def to_dataframe(self) -> DataFrame:
        """One row per relation: its weight, and the pairs' mean score under it."""
        weights = zip(self.names, self.weights.tolist(), self.scores.tolist(), strict=True)
        return data_frame({"relation": name, "weight": weight, "score": score} for name, weight, score in weights)

    def summary(self) -> dict[str, str]:
        """See `Artefact.summary`."""
        mixture = ", ".join(f"{name} {weight:.2f}" for name, weight in self.top())
        spread = f"entropy {self.entropy:.2f} of {math.log(max(len(self.names), 1)):.2f} nats, stability {self.stability:.2f}"
        own = f"{self.source_gain:+.2f} nats per token after A"
        return super().summary() | {"mixture": mixture, "weights": spread, "makes B likelier by": own}


@checked
def compose(
    model: LensModel,
    library: VectorLibrary,
    pairs: Pair | Sequence[Pair],
    *,
    weight_map: WeightMap | None = None,
    temperature: Positive = TEMPERATURE,
    score: Score = "logprob",
    scale: Finite = 1.0,
    top_k: Count | None = None,
    template: PromptTemplate = TODD,
) -> CompositeVector:
    """Mix a library's vectors into one that explains the relation between A and B.

    Args:
        model: Model.
        library: Basis vectors.
        pairs: A:B, or several pairs of one relation.
        weight_map: Fitted map, with its own score and scale; default: softmax(temperature x score).
        temperature: Factor of the scores; used without a map.
        score: Score of a vector on a pair: the output's "logprob" per token, or its probability ("prob"); used without a map.
        scale: Factor of the weighted sum; used without a map.
        top_k: Maximum number of relations with nonzero weight; default: all.
        template: Prompt template.

    Raises:
        LensFVError: no pairs, an empty or mixed library, or a map of another basis.

    Example:
        >>> vector = lens_fv.compose(model, library, lens_fv.Pair('tall', ('short',)))
        >>> sorted(vector.names)
        ['antonym', 'toy']
    """
    sources = [pairs] if isinstance(pairs, Pair) else list(pairs)
    if not sources:
        raise LensFVError(f"compose on {model.name}: no pair to read the weights off; give at least one")
    basis = library.basis(model)
    used_map = weight_map or softmax_map(model, basis, temperature=temperature, score=score, scale=scale)
    if used_map.names != basis.names:
        raise LensFVError("compose with a fitted map: it is for another basis or another order; filter the library to it")
    scores = relation_scores(model, basis, sources, score=used_map.score, template=template)
    mean = scores.mean(0)
    weights = used_map.weights(mean[None], top_k=top_k)[0]
    vector = weights @ basis.vectors
    applied = (used_map.scale * vector).expand(len(sources), -1)
    provenance = Provenance.of(
        model,
        task=" + ".join(f"{pair.input}:{pair.output}" for pair in sources),
        task_hash=Task("analogy", tuple(sources)).fingerprint,
        prompts=[p.tokens for p in encode_prompts(model, [zero_shot(pair, template=template) for pair in sources])],
        seed=0,
        method="composite",
        options={"map": used_map.provenance.method, **used_map.provenance.options, "top_k": top_k},
    )
    return CompositeVector(
        provenance=provenance,
        vector=vector.float().cpu(),
        head_outputs=torch.zeros(0, model.d_head),
        layer=basis.layer,
        resid_norm=basis.resid_norm,
        scale=used_map.scale,
        names=basis.names,
        weights=weights.float().cpu(),
        scores=mean.float().cpu(),
        stability=_mean_overlap(used_map.weights(scores, top_k=top_k)),
        source_gain=float(source_gain(model, basis.layer, applied, sources, template=template).mean()),
    )


@checked
def softmax_map(
    model: LensModel, basis: Basis, *, temperature: Positive = TEMPERATURE, score: Score = "logprob", scale: Finite = 1.0
) -> WeightMap:
    """Make the map that needs no fitting: softmax(temperature x score).

    Example:
        >>> basis = library.basis(model)
        >>> weights = lens_fv.composition.softmax_map(model, basis, temperature=5.0)
        >>> lens_fv.compose(model, library, lens_fv.Pair('tall', ('short',)), weight_map=weights).names
        ('toy', 'antonym')
    """
    n = len(basis.names)
    provenance = Provenance.of(
        model,
        task=f"{n} relations",
        task_hash="",
        prompts=[],
        seed=0,
        method="softmax",
        options={"temperature": temperature, "score": score, "scale": scale},
    )
    return WeightMap(
        provenance=provenance,
        names=basis.names,
        matrix=torch.full((1, n), temperature),
        bias=torch.zeros(n),
        scale=scale,
        score=score,
    )


def _mean_overlap(weights: Float[Tensor, "pairs relations"]) -> float:
    """Mean overlap of the weights of two different pairs; 1 for a single pair."""
    n = len(weights)
    if n < 2:
        return 1.0
    shared = torch.minimum(weights[:, None], weights[None]).sum(-1)
    return float((shared.sum() - shared.diagonal().sum()) / (n * (n - 1)))
