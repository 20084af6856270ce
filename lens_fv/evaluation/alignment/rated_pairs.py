"""Scores of rated pairs by the vectors of their relations, and by baselines without vectors."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity

from lens_fv.composition import CompositeVector, VectorLibrary, WeightMap, relation_scores, softmax_map
from lens_fv.core.artefact import Provenance
from lens_fv.core.choices import Seed, checked
from lens_fv.core.progress import progress_bar
from lens_fv.errors import LensFVError
from lens_fv.evaluation.alignment.relations import embedding_differences, state_differences, without_relation
from lens_fv.evaluation.alignment.semeval import RatedRelation
from lens_fv.evaluation.alignment.typicality import Typicality
from lens_fv.model.lens_model import LensModel
from lens_fv.patching import score_answers
from lens_fv.tasks import TODD, EncodedPrompt, Pair, PromptTemplate, Task, encode_prompts, zero_shot
from lens_fv.vectors import FunctionVector


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

    Example:
        >>> relations = lens_fv.evaluation.alignment.load_semeval('SemEval-2012-Task-2')  # doctest: +SKIP
        >>> lens_fv.evaluation.alignment.typicality(model, relations, {}).results  # doctest: +SKIP
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
