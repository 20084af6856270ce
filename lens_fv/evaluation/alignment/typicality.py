"""Comparison of vectors with human ratings of how typical a pair is of its relation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import stats
from torch import Tensor
from torch.nn.functional import cosine_similarity

from lens_fv.composition import CompositeVector, VectorLibrary, WeightMap, relation_scores, softmax_map
from lens_fv.core.artefact import Artefact, Provenance
from lens_fv.core.choices import Seed, checked
from lens_fv.core.progress import progress_bar
from lens_fv.core.statistics import Estimate, estimate
from lens_fv.core.tables import data_frame
from lens_fv.errors import LensFVError
from lens_fv.evaluation.alignment.relations import embedding_differences, state_differences, without_relation
from lens_fv.evaluation.alignment.semeval import RatedRelation
from lens_fv.evaluation.results import item_table
from lens_fv.model.lens_model import LensModel
from lens_fv.patching import score_answers
from lens_fv.tasks import TODD, EncodedPrompt, Pair, PromptTemplate, Task, encode_prompts, zero_shot
from lens_fv.vectors import FunctionVector

if TYPE_CHECKING:
    import pandas as pd


class TypicalityResult(NamedTuple):
    """One measure, averaged over relations.

    Attributes:
        measure: See `typicality`; "one - other" for a difference.
        spearman: Correlation with human typicality within a relation, averaged over relations, with its bootstrap interval.
    """

    measure: str
    spearman: Estimate


@dataclass(frozen=True, repr=False, eq=False)
class Typicality(Artefact):
    """Scores of every rated pair by every measure.

    Attributes:
        relations, groups: Names and classes of the relations.
        measures: Names of the measures, in the order of the last axis.
        pairs: The words of each pair.
        relation: Index of each pair's relation.
        human: Typicality ratings, comparable within a relation only.
        scores: Scores, higher for more typical pairs.

    Raises:
        LensFVError: no relation, a relation with fewer than three rated pairs or constant ratings, or inconsistent parts.
    """

    relations: tuple[str, ...]
    groups: tuple[str, ...]
    measures: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    relation: Int[Tensor, " pairs"]
    human: Float[Tensor, " pairs"]
    scores: Float[Tensor, "pairs measures"]

    def __post_init__(self) -> None:
        """Check that a correlation can be computed in every relation."""
        n, rated = len(self.relations), self.relation.tolist()
        if not n or not self.measures or len(self.groups) != n or len(self.pairs) != len(rated) or {*rated} != {*range(n)}:
            raise LensFVError(f"typicality: {len(rated)} pairs of {n} relations do not belong together; make it again")
        for i, name in enumerate(self.relations):
            human = self.human[self.relation == i]
            if len(human) < 3 or not 0 < float(human.max() - human.min()) < float("inf"):
                raise LensFVError(f"typicality of {name}: {len(human)} rated pairs that order nothing; it takes three or more")
        if self.scores.shape[1] != len(self.measures) or not self.scores.isfinite().all():
            raise LensFVError(f"typicality: not a finite score by each of {len(self.measures)} measures; make it again")

    def by_relation(self) -> Float[Tensor, "relations measures"]:
        """Spearman correlation (corrected for ties) within each relation; 0 for a constant measure."""
        correlations = torch.zeros(len(self.relations), len(self.measures))
        for i in range(len(self.relations)):
            rated = self.relation == i
            for j, scores in enumerate(self.scores[rated].T.numpy()):
                if np.ptp(scores):
                    result: Any = stats.spearmanr(scores, self.human[rated].numpy())
                    correlations[i, j] = float(result.statistic)
        return correlations

    @property
    def results(self) -> list[TypicalityResult]:
        """Results, one per measure."""
        return [self._result(name, rows) for name, rows in zip(self.measures, self.by_relation().T, strict=True)]

    def difference(self, one: str, other: str) -> TypicalityResult:
        """Compare two measures, paired by relation.

        Raises:
            LensFVError: no such measure.
        """
        for name in (one, other):
            if name not in self.measures:
                raise LensFVError(f"typicality by {name!r}: not measured; there are {', '.join(self.measures)}")
        correlations = self.by_relation()
        differences = correlations[:, self.measures.index(one)] - correlations[:, self.measures.index(other)]
        return self._result(f"{one} - {other}", differences)

    def _result(self, name: str, rows: Tensor) -> TypicalityResult:
        return TypicalityResult(name, estimate(rows.tolist(), seed=self.provenance.seed))

    @checked
    def to_dataframe(self, *, by: Literal["measure", "pair"] = "measure") -> "pd.DataFrame":
        """One row per measure, with its correlation over relations, or one per rated pair and measure, with its score."""
        if by == "measure":
            return data_frame(self.results)
        first, second = zip(*self.pairs, strict=True)
        relation = [self.relations[i] for i in self.relation.tolist()]
        items = {"relation": relation, "a": first, "b": second, "human": self.human.tolist()}
        return item_table(items, self.measures, {"score": self.scores}, axis="measure")

    def summary(self) -> dict[str, str]:
        """See `Artefact.summary`."""
        rows = {r.measure: f"Spearman {r.spearman:+.2f}" for r in self.results}
        return super().summary() | {"relations": str(len(self.relations)), "rated pairs": str(len(self.pairs))} | rows


@checked
@torch.no_grad()
def typicality(
    model: LensModel,
    relations: Sequence[RatedRelation],
    vectors: Mapping[str, Mapping[str, FunctionVector]],
    *,
    library: VectorLibrary | None = None,
    weight_map: WeightMap | None = None,
    template: PromptTemplate = TODD,
    seed: Seed = 0,
    progress: bool = False,
) -> Typicality:
    """Score rated pairs A:B by the vectors of their relations, and by baselines without vectors.

    Measures: "none" (mean log-probability per token of B after A's zero-shot prompt) and "embedding" (cosine between the pair's
    embedding difference, B minus A, and its mean over the relation's examples). For every kind of vector: "KIND" (the
    log-probability with the vector added), "KIND gain" (its increase over "none") and "KIND direction" (cosine between the
    vector and the pair's difference in the residual stream after the vector's layer, B minus A). For composites also "KIND
    profile" (cosine between the weights inferred from the pair alone and those of the composite).

    Args:
        model: The model.
        relations: Relations with their ratings.
        vectors: Vectors by kind and relation, made from the examples and not from rated pairs; see `relation_vectors`.
        library: Library of the composites, needed for profiles.
        weight_map: Map of the composites; default: softmax(3 x score).
        template: Prompt template.
        seed: Seed of the bootstrap.
        progress: Draw a progress bar.

    Raises:
        LensFVError: no relations, a relation without a vector, or a vector of another model.
    """
    if not relations:
        raise LensFVError(f"typicality on {model.name}: there are no relations")
    for kind, by_relation in vectors.items():
        for relation in relations:
            if relation.name not in by_relation:
                raise LensFVError(f"typicality of {relation.name}: it has no {kind} vector")
            by_relation[relation.name].provenance.check(model)
    encoded: list[EncodedPrompt] = []
    tables: list[dict[str, Tensor]] = []
    with progress_bar("rated pairs", len(relations), show=progress) as tick:
        for relation in relations:
            prompts = encode_prompts(model, [zero_shot(pair, template=template) for pair in relation.pairs])
            own = {kind: by_relation[relation.name] for kind, by_relation in vectors.items()}
            scores = _measures(model, relation, own, prompts)
            for kind, vector in own.items():
                if library is not None and isinstance(vector, CompositeVector):
                    basis, own_map = without_relation(library, weight_map, relation.name)
                    scores[f"{kind} profile"] = _profile(model, relation.pairs, vector, basis, own_map, template)
            encoded += prompts
            tables.append(scores)
            tick()
    pairs = tuple(pair for relation in relations for pair in relation.pairs)
    measures = tuple(tables[0])
    return Typicality(
        provenance=Provenance.of(
            model,
            task=f"typicality of {len(pairs)} pairs",
            task_hash=Task("typicality", pairs).fingerprint,
            prompts=[prompt.tokens for prompt in encoded],
            seed=seed,
            method="typicality",
            options={"kinds": list(vectors)},
        ),
        relations=tuple(relation.name for relation in relations),
        groups=tuple(relation.group for relation in relations),
        measures=measures,
        pairs=tuple((pair.input, pair.output) for pair in pairs),
        relation=torch.tensor([i for i, relation in enumerate(relations) for _ in relation.pairs]),
        human=torch.tensor([rating for relation in relations for rating in relation.typicality]),
        scores=torch.cat([torch.stack([scores[name] for name in measures], 1) for scores in tables]),
    )


def _measures(
    model: LensModel, relation: RatedRelation, vectors: Mapping[str, FunctionVector], prompts: Sequence[EncodedPrompt]
) -> dict[str, Tensor]:
    branches = [[], *(vector.edits() for vector in vectors.values())]
    lengths = torch.tensor([float(len(prompt.answers[0])) for prompt in prompts])
    logprob = score_answers(model, prompts, branches).logprob / lengths[:, None]
    static = embedding_differences(model, (*relation.pairs, *relation.examples))
    rated, examples = static[: len(relation.pairs)], static[len(relation.pairs) :]
    measures = {"none": logprob[:, 0], "embedding": cosine_similarity(rated, examples.mean(0, keepdim=True))}
    states = state_differences(model, relation.pairs, [vector.layer for vector in vectors.values()]) if vectors else []
    for (kind, vector), steered, differences in zip(vectors.items(), logprob.T[1:], states, strict=True):
        measures[kind] = steered
        measures[f"{kind} gain"] = steered - logprob[:, 0]
        measures[f"{kind} direction"] = cosine_similarity(differences, vector.vector[None].to(differences))
    return measures


def _profile(
    model: LensModel,
    pairs: Sequence[Pair],
    composite: CompositeVector,
    library: VectorLibrary,
    weight_map: WeightMap | None,
    template: PromptTemplate,
) -> Float[Tensor, " pairs"]:
    basis = library.basis(model)
    if basis.names != composite.names:
        raise LensFVError(f"profiles of the composite of {composite.provenance.task}: made of another library; pass that one")
    weight_map = weight_map or softmax_map(model, basis)
    weights = weight_map.weights(relation_scores(model, basis, pairs, score=weight_map.score, template=template))
    return cosine_similarity(weights.float().cpu(), composite.weights[None])
