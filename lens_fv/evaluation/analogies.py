"""Evaluation of composites on analogies A:B::C:?, with controls."""

from collections.abc import Mapping, Sequence
from itertools import chain

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.composition import Basis, VectorLibrary, WeightMap, relation_scores, softmax_map
from lens_fv.composition.analogies import own_relations
from lens_fv.composition.weights import Score, source_gain
from lens_fv.core.artefact import Provenance
from lens_fv.core.choices import Count, Seed, checked
from lens_fv.core.progress import progress_bar
from lens_fv.core.statistics import choice_shares
from lens_fv.errors import LensFVError
from lens_fv.evaluation.solutions import AnalogyEvaluation
from lens_fv.model.lens_model import LensModel
from lens_fv.model.measuring import measured
from lens_fv.patching.readout import answer_ranks
from lens_fv.tasks import TODD, Analogy, EncodedPrompt, Pair, PromptTemplate, Task, encode_prompts, few_shot, zero_shot
from lens_fv.vectors.batches import open_batches
from lens_fv.vectors.controls import random_rows_like


@checked
@torch.no_grad()
def evaluate_analogies(
    model: LensModel,
    library: VectorLibrary,
    analogies: Sequence[Analogy],
    *,
    maps: Mapping[str, WeightMap] | None = None,
    sources: Sequence[Sequence[Pair]] | None = None,
    top_k: Count | None = None,
    exclude_own_relation: bool = True,
    template: PromptTemplate = TODD,
    seed: Seed = 0,
    progress: bool = False,
) -> AnalogyEvaluation:
    """Solve analogies by composites of a library's vectors, and by baselines and controls.

    Conditions: "none" (C's zero-shot prompt), "mean" (mean vector of the basis), "best" (the one vector that explains A:B
    best), "composite" (softmax of 3 x score), one for each of `maps`, "matched" (the composite at the norm of the best vector),
    "other_source" (the first composite of another analogy, of another relation if possible), "random_basis" (the composite's
    weights on random vectors with the norms of the basis), "random" (a random vector with the composite's norm), "one_shot"
    (A:B as a demonstration), and "one_shot_composite" and one for each of `maps` (A:B as a demonstration, and the vector
    added). With several source pairs, the last ones are called "few_shot" and so on.

    Args:
        model: The model.
        library: Basis vectors.
        analogies: Analogies to solve.
        maps: Fitted maps by condition name.
        sources: For each analogy, the pairs that its weights are inferred from and its prompt demonstrates; default: A:B.
        top_k: See `compose`.
        exclude_own_relation: Give an analogy's own relation no weight, as if the relation were new.
        template: Prompt template.
        seed: Seed of the random controls.
        progress: Draw a progress bar.

    Raises:
        LensFVError: no analogies, an analogy without source pairs, or an empty or mixed library.

    Example:
        >>> split = lens_fv.split_pairs(task, seed=0)
        >>> analogies = lens_fv.make_analogies(task, split.train, split.test)
        >>> evaluation = lens_fv.evaluate_analogies(model, library, analogies)
        >>> [result.condition for result in evaluation.results][:4]
        ['none', 'mean', 'best', 'composite']
    """
    pairs_of = [[analogy.source] for analogy in analogies] if sources is None else [list(pairs) for pairs in sources]
    if not analogies:
        raise LensFVError(f"solve analogies on {model.name}: there are none")
    if len(pairs_of) != len(analogies) or not all(pairs_of):
        raise LensFVError(f"solve {len(analogies)} analogies: source pairs are given for {sum(map(bool, pairs_of))} of them")
    basis = library.basis(model)
    excluded = own_relations(basis, analogies).to(model.device) & exclude_own_relation
    all_maps = {"composite": softmax_map(model, basis), **(maps or {})}
    pairs, counts = list(chain(*pairs_of)), [len(own) for own in pairs_of]
    distinct = list(dict.fromkeys(pairs))
    rows = torch.tensor([distinct.index(pair) for pair in pairs], device=model.device)
    scores: dict[Score, Tensor] = {}
    for weight_map in all_maps.values():
        score = weight_map.score
        if score not in scores:
            values = relation_scores(model, basis, distinct, score=score, template=template, progress=progress)
            scores[score] = _means(values[rows], counts)
    weights = {name: m.weights(scores[m.score], excluded=excluded, top_k=top_k) for name, m in all_maps.items()}
    composites = {name: all_maps[name].scale * (w @ basis.vectors) for name, w in weights.items()}
    controls = _controls(basis, weights["composite"], composites["composite"], scores["logprob"], excluded, analogies, seed)
    vectors = {name: controls.pop(name) for name in ("mean", "best")} | composites | controls
    prompted = "one_shot" if set(counts) == {1} else "few_shot"
    questions = [(i, Pair(analogy.c, (answer,))) for i, analogy in enumerate(analogies) for answer in analogy.d]
    questions += [(i, Pair(stem, (choice,))) for i, analogy in enumerate(analogies) for stem, choice in analogy.candidates]
    owners = [i for i, _ in questions]

    plain = encode_prompts(model, [zero_shot(pair, template=template) for _, pair in questions])
    shots = encode_prompts(model, [few_shot(pair, pairs_of[i], template=template) for i, pair in questions])
    columns = [
        _scores(model, prompts, basis.layer, torch.stack(list(added.values()), 1)[owners], what, progress)
        for what, prompts, added in (("zero_shot", plain, vectors), (prompted, shots, composites))
    ]
    outcome = _outcome(analogies, *(torch.cat(tensors, 1).cpu() for tensors in zip(*columns, strict=True)))
    applied = composites["composite"].repeat_interleave(torch.tensor(counts, device=model.device), 0)
    provenance = Provenance.of(
        model,
        task=f"{len(analogies)} analogies",
        task_hash=Task("analogies", tuple(analogy.target for analogy in analogies)).fingerprint,
        prompts=[prompt.tokens for prompt in plain],
        seed=seed,
        method="analogies",
        options={"basis": list(basis.names), "top_k": top_k, "exclude_own_relation": exclude_own_relation},
    )
    return AnalogyEvaluation(
        provenance=provenance,
        conditions=("none", *vectors, prompted, *(f"{prompted}_{name}" for name in composites)),
        relations=tuple(analogy.relation for analogy in analogies),
        has_choices=torch.tensor([bool(analogy.choices) for analogy in analogies]),
        **outcome,
        weights=weights["composite"].float().cpu(),
        source_gain=_means(source_gain(model, basis.layer, applied, pairs, template=template), counts).cpu(),
        distance=_distances(model, analogies),
    )


def _controls(
    basis: Basis,
    weights: Tensor,
    composite: Tensor,
    scores: Tensor,
    excluded: Tensor,
    analogies: Sequence[Analogy],
    seed: int,
) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    allowed = (~excluded).to(weights)
    relations, n = [analogy.relation for analogy in analogies], len(analogies)
    others: list[int] = []
    for i, relation in enumerate(relations):
        following = [(i + step) % n for step in range(1, n)]
        others.append(next((j for j in following if relations[j] != relation), i - 1))
    best = basis.vectors[scores.masked_fill(excluded, -torch.inf).argmax(-1)]
    return {
        "mean": allowed / allowed.sum(-1, keepdim=True) @ basis.vectors,
        "best": best,
        "matched": composite * best.norm(dim=-1, keepdim=True) / composite.norm(dim=-1, keepdim=True).clamp(min=1e-30),
        "other_source": composite[others],
        "random_basis": weights @ random_rows_like(basis.vectors, rng),
        "random": random_rows_like(composite, rng),
    }


def _means(values: Tensor, counts: Sequence[int]) -> Tensor:
    """Average over the pairs of each analogy."""
    return torch.stack([own.mean(0) for own in values.split(list(counts))])


def _scores(
    model: LensModel,
    prompts: Sequence[EncodedPrompt],
    layer: int,
    vectors: Float[Tensor, "prompts vectors d_model"],
    what: str,
    progress: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Score answers without and with each vector: first-token match, greedy match, and log-probability per token."""
    shape = (len(prompts), 1 + vectors.shape[1])
    top1, exact_match = (torch.zeros(shape, dtype=torch.bool, device=model.device) for _ in range(2))
    logprob = torch.zeros(shape, device=model.device)
    batches = open_batches(model, list(enumerate(prompts)), size=32)
    with progress_bar(what, len(batches), show=progress) as tick:
        for batch in batches:
            ranks, logprobs = batch.read([layer] * vectors.shape[1], vectors, answer_ranks, plain=True).unbind(-1)
            rows = list(batch.owners)
            top1[rows], exact_match[rows] = ranks[:, :, 0] == 0, (ranks == 0).all(-1)
            logprob[rows] = logprobs.sum(-1) / batch.lengths(model.device)
            tick()
    return top1, exact_match, logprob


def _outcome(analogies: Sequence[Analogy], top1: Tensor, exact_match: Tensor, logprob: Tensor) -> dict[str, Tensor]:
    """Combine the scores of each analogy's answers, which come first, and of its choices."""
    n, numbers = len(analogies), [len(analogy.d) for analogy in analogies] + [len(analogy.choices) for analogy in analogies]
    choice, calibrated = (torch.zeros(n, logprob.shape[1]) for _ in range(2))
    for i, (analogy, values) in enumerate(zip(analogies, logprob.split(numbers)[n:], strict=True)):
        if analogy.choices:
            correct = analogy.candidates.index((analogy.c, analogy.d[0]))
            choice[i] = choice_shares(values, correct)
            calibrated[i] = choice_shares(values - values[:, :1], correct)
    best = [torch.stack([rows.amax(0) for rows in scores.split(numbers)[:n]]) for scores in (top1, exact_match, logprob)]
    return dict(zip(("top1", "exact_match", "logprob"), best, strict=True)) | {"choice": choice, "calibrated": calibrated}


@measured
def _distances(model: LensModel, analogies: Sequence[Analogy]) -> Tensor:
    def mean(word: str) -> Tensor:
        return model.tl.W_E[model.encode(f" {word}", bos=False)].float().mean(0)

    similarities = [torch.cosine_similarity(mean(analogy.a), mean(analogy.c), dim=0) for analogy in analogies]
    return 1 - torch.stack(similarities).cpu()
