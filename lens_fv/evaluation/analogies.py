"""Evaluation of composites on analogies A:B::C:?, with controls."""

from collections.abc import Mapping, Sequence

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
        model: the model.
        library: basis vectors.
        analogies: analogies to solve.
        maps: fitted maps by condition name.
        sources: for each analogy, the pairs that its weights are inferred from and its prompt demonstrates; default: A:B.
        top_k: see `compose`.
        exclude_own_relation: give an analogy's own relation no weight, as if the relation were new.
        template: prompt template.
        seed: seed of the random controls.
        progress: draw a progress bar.

    Raises:
        LensFVError: no analogies, an analogy without source pairs, or an empty or mixed library.

    Example:
        >>> recipe = lens_fv.composition.TuneRecipe(layer=1, n_pairs=4, steps=2)
        >>> tasks = [task, lens_fv.load_task('antonym')]
        >>> library = lens_fv.build_library(model, tasks, folder / 'library', recipe)
        >>> split = lens_fv.split_pairs(task, seed=0)
        >>> analogies = lens_fv.make_analogies(task, split.train, split.test)
        >>> evaluation = lens_fv.evaluate_analogies(model, library, analogies)
        >>> [result.condition for result in evaluation.results][:4]
        ['none', 'mean', 'best', 'composite']
    """
    shown = [list(pairs) for pairs in sources] if sources is not None else [[a.source] for a in analogies]
    if not analogies:
        raise LensFVError(f"solve analogies on {model.name}: there are none")
    if len(shown) != len(analogies) or not all(shown):
        raise LensFVError(f"solve {len(analogies)} analogies: source pairs are given for {sum(map(bool, shown))} of them")
    basis, device = library.basis(model), model.device
    excluded = own_relations(basis, analogies).to(device) & exclude_own_relation
    found = {"composite": softmax_map(model, basis), **(maps or {})}
    pairs, counts = [pair for each in shown for pair in each], [len(each) for each in shown]
    different = {pair: i for i, pair in enumerate(dict.fromkeys(pairs))}
    which = torch.tensor([different[pair] for pair in pairs], device=device)
    scores: dict[Score, Tensor] = {}
    kinds: set[Score] = {m.score for m in found.values()}
    for kind in kinds:
        each = relation_scores(model, basis, list(different), score=kind, template=template, progress=progress)
        scores[kind] = _means(each[which], counts)
    weights = {name: m.weights(scores[m.score], excluded=excluded, top_k=top_k) for name, m in found.items()}
    composites = {name: found[name].scale * (w @ basis.vectors) for name, w in weights.items()}
    vectors = _controls(basis, weights["composite"], composites["composite"], scores["logprob"], excluded, analogies, seed)
    vectors = {name: vectors.pop(name) for name in ("mean", "best")} | composites | vectors
    prompted = "one_shot" if set(counts) == {1} else "few_shot"
    conditions = ("none", *vectors, prompted, *(f"{prompted}_{name}" for name in composites))
    stacked = torch.stack(list(vectors.values()), 1)
    asked = [(i, Pair(a.c, (d,))) for i, a in enumerate(analogies) for d in a.d]
    asked += [(i, Pair(stem, (choice,))) for i, a in enumerate(analogies) for stem, choice in a.candidates]
    zero = encode_prompts(model, [zero_shot(pair, template=template) for _, pair in asked])
    one = encode_prompts(model, [few_shot(pair, shown[i], template=template) for i, pair in asked])
    own = stacked[[i for i, _ in asked]]
    with_vectors = _read(model, zero, basis.layer, own, "zero_shot", progress)
    both = _read(model, one, basis.layer, own[:, [list(vectors).index(name) for name in composites]], prompted, progress)
    rank, full, logprob = (torch.cat(each, 1).cpu() for each in zip(with_vectors, both, strict=True))
    applied = composites["composite"].repeat_interleave(torch.tensor(counts, device=device), 0)
    outcome = _outcome(analogies, rank, full, logprob)
    provenance = Provenance.of(
        model,
        task=f"{len(analogies)} analogies",
        task_hash=Task("analogies", tuple(a.target for a in analogies)).fingerprint,
        prompts=[p.tokens for p in zero],
        seed=seed,
        method="analogies",
        options={"basis": list(basis.names), "top_k": top_k, "exclude_own_relation": exclude_own_relation},
    )
    return AnalogyEvaluation(
        provenance=provenance,
        conditions=conditions,
        relations=tuple(a.relation for a in analogies),
        has_choices=torch.tensor([bool(a.choices) for a in analogies]),
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

    def like(rows: Tensor) -> Tensor:
        draw = torch.randn(rows.shape, generator=rng).to(rows)
        return draw * rows.norm(dim=-1, keepdim=True) / draw.norm(dim=-1, keepdim=True)

    kept = (~excluded).to(weights)
    relations = [a.relation for a in analogies]
    others = [next((j for j in _from(i, len(relations)) if relations[j] != r), i - 1) for i, r in enumerate(relations)]
    best = basis.vectors[scores.masked_fill(excluded, -torch.inf).argmax(-1)]
    return {
        "mean": kept / kept.sum(-1, keepdim=True) @ basis.vectors,
        "best": best,
        "matched": composite * best.norm(dim=-1, keepdim=True) / composite.norm(dim=-1, keepdim=True).clamp(min=1e-30),
        "other_source": composite[others],
        "random_basis": weights @ like(basis.vectors),
        "random": like(composite),
    }


def _means(values: Tensor, counts: Sequence[int]) -> Tensor:
    """Average over the pairs of each analogy."""
    return torch.stack([each.mean(0) for each in values.split(list(counts))])


def _from(i: int, n: int) -> list[int]:
    return [(i + step) % n for step in range(1, n)]


def _read(
    model: LensModel,
    prompts: Sequence[EncodedPrompt],
    layer: int,
    vectors: Float[Tensor, "prompts conditions d_model"],
    what: str,
    progress: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Score each prompt with and without each vector: first-token rank, greedy match, and log-probability per token."""
    rank, full, logprob = (torch.zeros(len(prompts), 1 + vectors.shape[1], device=model.device) for _ in range(3))
    batches = open_batches(model, list(enumerate(prompts)), size=32)
    with progress_bar(what, len(batches), show=progress) as tick:
        for batch in batches:
            ranks, logprobs = batch.read([layer] * vectors.shape[1], vectors, answer_ranks, plain=True).unbind(-1)
            at = list(batch.owners)
            rank[at], full[at] = ranks[:, :, 0], (ranks == 0).all(-1).to(full)
            logprob[at] = logprobs.sum(-1) / batch.lengths(model.device)
            tick()
    return rank, full > 0, logprob


def _outcome(analogies: Sequence[Analogy], rank: Tensor, full: Tensor, logprob: Tensor) -> dict[str, Tensor]:
    """Combine answers and choices of each analogy."""
    n, at = len(analogies), 0
    made = {key: torch.zeros(n, rank.shape[1], dtype=torch.bool) for key in ("top1", "exact_match")}
    best, choice, calibrated = (torch.zeros(n, rank.shape[1]) for _ in range(3))
    for i, analogy in enumerate(analogies):
        rows = slice(at, at := at + len(analogy.d))
        made["top1"][i], made["exact_match"][i] = (rank[rows] == 0).any(0), full[rows].any(0)
        best[i] = logprob[rows].amax(0)
    for i, analogy in enumerate(analogies):
        rows = slice(at, at := at + len(analogy.choices))
        if analogy.choices:
            right = analogy.candidates.index((analogy.c, analogy.d[0]))
            choice[i] = choice_shares(logprob[rows], right)
            calibrated[i] = choice_shares(logprob[rows] - logprob[rows, :1], right)
    return made | {"logprob": best, "choice": choice, "calibrated": calibrated}


@measured
def _distances(model: LensModel, analogies: Sequence[Analogy]) -> Tensor:
    embedding = model.tl.W_E

    def mean(word: str) -> Tensor:
        return embedding[model.encode(f" {word}", bos=False)].float().mean(0)

    return torch.stack([1 - torch.cosine_similarity(mean(a.a), mean(a.c), dim=0) for a in analogies]).cpu()
