"""Composite vectors: the mixture of known relations that explains one or more pairs A:B."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.composition.library import Basis, VectorLibrary
from lens_fv.composition.weights import Score, WeightMap, relation_scores, source_gain
from lens_fv.core.artefact import Provenance, require_shape
from lens_fv.core.choices import Count, Finite, Positive, checked
from lens_fv.core.tables import data_frame
from lens_fv.errors import LensFVError
from lens_fv.model.lens_model import LensModel
from lens_fv.tasks import TODD, Pair, PromptTemplate, Task, encode_prompts, zero_shot
from lens_fv.vectors import FunctionVector

if TYPE_CHECKING:
    import pandas as pd


TEMPERATURE = 3.0
"""Factor of the mean log-probabilities before the softmax when no map is given."""


@checked
@dataclass(frozen=True, repr=False, eq=False)
class CompositeVector(FunctionVector):
    """A weighted sum of known relations' vectors, with weights inferred from one or more pairs (Kang, Wu and Lu 2026).

    Attributes:
        names: names of the relations.
        weights: weight of each relation; they sum to one.
        scores: mean score of the pairs under each relation.
        stability: mean overlap, from 0 to 1, of the weights inferred from each pair alone; 1 for a single pair.
        source_gain: increase in the log-probability of B after A, in nats per token, averaged over pairs.

    Example:
        >>> recipe = lens_fv.composition.TuneRecipe(layer=1, n_pairs=4, steps=2)
        >>> tasks = [task, lens_fv.load_task('antonym')]
        >>> library = lens_fv.build_library(model, tasks, folder / 'library', recipe)
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
        found = self.weights.topk(min(k, len(self.names)))
        return [(self.names[i], w) for i, w in zip(found.indices.tolist(), found.values.tolist(), strict=True)]

    def to_dataframe(self) -> "pd.DataFrame":
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
        model: the model.
        library: basis vectors.
        pairs: A:B, or several pairs of one relation.
        weight_map: fitted map, with its own score and scale; default: softmax(temperature x score).
        temperature: factor of the scores; used without a map.
        score: score of a vector on a pair: the output's "logprob" per token, or its probability ("prob"); used without a map.
        scale: factor of the weighted sum; used without a map.
        top_k: maximum number of relations with nonzero weight; default: all.
        template: prompt template.

    Raises:
        LensFVError: no pairs, an empty or mixed library, or a map of another basis.

    Example:
        >>> recipe = lens_fv.composition.TuneRecipe(layer=1, n_pairs=4, steps=2)
        >>> tasks = [task, lens_fv.load_task('antonym')]
        >>> library = lens_fv.build_library(model, tasks, folder / 'library', recipe)
        >>> vector = lens_fv.compose(model, library, lens_fv.Pair('tall', ('short',)))
        >>> sorted(vector.names)
        ['antonym', 'toy']
    """
    given = [pairs] if isinstance(pairs, Pair) else list(pairs)
    if not given:
        raise LensFVError(f"compose on {model.name}: no pair to read the weights off; give at least one")
    basis = library.basis(model)
    found = weight_map or softmax_map(model, basis, temperature=temperature, score=score, scale=scale)
    if found.names != basis.names:
        raise LensFVError("compose with a fitted map: it is for another basis or another order; filter the library to it")
    scores = relation_scores(model, basis, given, score=found.score, template=template)
    mean = scores.mean(0)
    weights = found.weights(mean[None], top_k=top_k)[0]
    vector = weights @ basis.vectors
    applied = (found.scale * vector).expand(len(given), -1)
    task = Task("analogy", tuple(given))
    provenance = Provenance.of(
        model,
        task=" + ".join(f"{p.input}:{p.output}" for p in given),
        task_hash=task.fingerprint,
        prompts=[p.tokens for p in encode_prompts(model, [zero_shot(pair, template=template) for pair in given])],
        seed=0,
        method="composite",
        options={"map": found.provenance.method, **found.provenance.options, "top_k": top_k},
    )
    return CompositeVector(
        provenance=provenance,
        vector=vector.float().cpu(),
        head_outputs=torch.zeros(0, model.d_head),
        layer=basis.layer,
        resid_norm=basis.resid_norm,
        scale=found.scale,
        names=basis.names,
        weights=weights.float().cpu(),
        scores=mean.float().cpu(),
        stability=_overlap(found.weights(scores, top_k=top_k)),
        source_gain=float(source_gain(model, basis.layer, applied, given, template=template).mean()),
    )


@checked
def softmax_map(
    model: LensModel, basis: Basis, *, temperature: Positive = TEMPERATURE, score: Score = "logprob", scale: Finite = 1.0
) -> WeightMap:
    """Make the map that needs no fitting: softmax(temperature x score)."""
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


def _overlap(weights: Float[Tensor, "pairs relations"]) -> float:
    """Mean overlap of the weights of two pairs."""
    n = len(weights)
    if n < 2:
        return 1.0
    common = torch.minimum(weights[:, None], weights[None]).sum(-1)
    return float((common.sum() - common.diagonal().sum()) / (n * (n - 1)))
