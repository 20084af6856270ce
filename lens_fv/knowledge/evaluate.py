"""Evaluate knowledge updates by probes: what the model learned about their entities, and what else changed."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch.nn.functional import kl_div

from lens_fv.core.choices import Count, Seed, checked
from lens_fv.core.progress import progress_bar
from lens_fv.core.statistics import estimate
from lens_fv.errors import LensFVError
from lens_fv.finetuning.loop import pad_token, padded
from lens_fv.knowledge.delta import WeightDelta
from lens_fv.knowledge.entity import Entity, after_definition, all_probes, definitions, random_definitions, true_sentences
from lens_fv.knowledge.results import KnowledgeResult, KnowledgeResults
from lens_fv.knowledge.scores import KnowledgeScores
from lens_fv.model.finite import plain_logits
from lens_fv.model.lens_model import LensModel
from lens_fv.model.plain import plain_model
from lens_fv.patching import Edit, score_each_answer
from lens_fv.tasks import EncodedPrompt, encode_prompt


@checked
def evaluate_knowledge(
    model: LensModel,
    entities: Sequence[Entity],
    updates: Mapping[str, WeightDelta],
    *,
    locality: Sequence[Entity] = (),
    seed: Seed = 0,
    progress: bool = False,
) -> KnowledgeResults:
    """Score the probes without and with definitions in context and under each update, and unrelated probes as a control.

    The condition "random_definition" needs at least two entities.

    Args:
        model: Model without any update.
        entities: Entities with probes and definitions.
        updates: Updates by name.
        locality: Unrelated entities with probes, such as `load_entities("popular")`, to measure locality.
        seed: Seed of the random definitions and of the bootstrap intervals.
        progress: Show a progress bar.

    Raises:
        LensFVError: see `score_probes` and `WeightDelta.applied`.

    Example:
        >>> [result.condition for result in lens_fv.evaluate_knowledge(model, entities, {'distilled': update})]
        ['base', 'definition', 'random_definition', 'distilled']
    """
    results: list[KnowledgeResult] = []
    with progress_bar("conditions", 2 + (len(entities) > 1) + len(updates), show=progress) as tick:
        contexts = {"base": {}, "definition": definitions(entities)}
        if len(entities) > 1:
            contexts["random_definition"] = random_definitions(entities, seed)
        for condition, context in contexts.items():
            scores = score_probes(model, entities, context=context)
            unrelated = score_probes(model, locality) if locality and condition == "base" else None
            results.append(KnowledgeResult(condition, scores, unrelated, None))
            tick()
        for condition, delta in updates.items():
            results.append(evaluate_update(model, entities, delta, locality=locality, condition=condition, seed=seed))
            tick()
    return KnowledgeResults(results)


@checked
def evaluate_update(
    model: LensModel,
    entities: Sequence[Entity],
    delta: WeightDelta,
    *,
    locality: Sequence[Entity] = (),
    condition: str = "update",
    seed: Seed = 0,
) -> KnowledgeResult:
    """Evaluate a single update as in `evaluate_knowledge`.

    Example:
        >>> lens_fv.knowledge.evaluate_update(model, entities, update).condition
        'update'
    """
    texts = true_sentences(locality)
    divergence = estimate(kl_to_base(model, delta, texts), seed=seed) if texts else None
    with delta.applied(model):
        unrelated = score_probes(model, locality) if locality else None
        return KnowledgeResult(condition, score_probes(model, entities), unrelated, divergence)


@checked
@torch.no_grad()
def kl_to_base(model: LensModel, delta: WeightDelta, texts: Sequence[str], *, batch_size: Count = 16) -> list[float]:
    """Compute the KL divergence of the updated model from the base, in nats per token, averaged over each text's tokens.

    Args:
        model: Model without the update.
        delta: Update to evaluate.
        texts: Texts of at least one token each, such as `true_sentences(load_entities("popular"))`.
        batch_size: Number of texts per forward pass.

    Raises:
        LensFVError: a text without tokens, non-finite logits, or any error of `WeightDelta.applied`.

    Example:
        >>> divergences = lens_fv.knowledge.kl_to_base(model, update, ['It rains today.', 'The sky is blue.'])
        >>> len(divergences)
        2
    """
    plain, pad = plain_model(model), pad_token(model.tokenizer)
    rows = [model.encode(text) for text in texts]
    if not all(rows):
        raise LensFVError(f"KL divergence of {model.name} from its base: text {rows.index([])} has no tokens")
    divergences: list[float] = []
    for start in range(0, len(rows), batch_size):
        batch_rows = rows[start : start + batch_size]
        batch = padded(batch_rows, pad, model.device)
        before = plain_logits(plain, "KL to the base", batch).float().log_softmax(-1)
        with delta.applied(model):
            after = plain_logits(plain, "KL to the base", batch).float().log_softmax(-1)
        kl = kl_div(after, before, reduction="none", log_target=True).sum(-1)
        divergences += [float(values[: len(row)].mean()) for values, row in zip(kl, batch_rows, strict=True)]
    return divergences


@checked
def score_probes(
    model: LensModel,
    entities: Sequence[Entity],
    *,
    context: Mapping[str, str] | None = None,
    full_sentence: bool = False,
    progress: bool = False,
) -> KnowledgeScores:
    """Score all probes of some entities, reading each candidate separately after the text before the gap.

    Args:
        model: Model to score.
        entities: Entities with probes.
        context: Text to put before a probe, by entity key; `definitions(entities)` gives the upper bound for learning.
        full_sentence: Score the rest of the sentence along with each candidate.
        progress: Show a progress bar.

    Raises:
        LensFVError: no probes, a candidate without tokens, or a prompt longer than the context.

    Example:
        >>> scores = lens_fv.knowledge.score_probes(model, entities)
        >>> scores.accuracy().n  # entities
        2
    """
    return score_probes_by_branch(model, entities, [()], context=context, full_sentence=full_sentence, progress=progress)[0]


@checked
def score_probes_by_branch(
    model: LensModel,
    entities: Sequence[Entity],
    branches: Sequence[Sequence[Edit]],
    *,
    context: Mapping[str, str] | None = None,
    full_sentence: bool = False,
    progress: bool = False,
) -> list[KnowledgeScores]:
    """Run `score_probes` under the edits of each branch; edit values and positions are shared or one per probe.

    Probes are in the order of `probe_prompts`.

    Example:
        >>> vectors = lens_fv.knowledge.definition_vectors(model, entities)
        >>> edit = lens_fv.knowledge.at_mentions(model, entities, vectors, layer=1)
        >>> len(lens_fv.knowledge.score_probes_by_branch(model, entities, [[], [edit]]))
        2
    """
    probes = all_probes(entities)
    prompts = probe_prompts(model, entities, context=context, full_sentence=full_sentence)
    n_candidates = max(len(prompt.answers) for prompt in prompts)
    logprobs = torch.full((len(branches), len(probes), n_candidates), -torch.inf)
    lengths = torch.zeros(len(probes), n_candidates, dtype=torch.long)
    for scored in score_each_answer(model, prompts, branches, what="probes", progress=progress):
        logprobs[:, scored.prompt, scored.answer] = scored.logprobs.sum(-1)
        lengths[scored.prompt, scored.answer] = scored.logprobs.shape[1]
    return [
        KnowledgeScores(
            entities=tuple(entity.key for entity, _ in probes),
            kinds=tuple(probe.kind for _, probe in probes),
            answers=tuple(probe.answer_index for _, probe in probes),
            logprobs=branch_logprobs,
            lengths=lengths,
        )
        for branch_logprobs in logprobs
    ]


def probe_prompts(
    model: LensModel, entities: Sequence[Entity], *, context: Mapping[str, str] | None = None, full_sentence: bool = False
) -> list[EncodedPrompt]:
    """Encode the text before each probe's gap, entity by entity, with the candidates as answers; see `score_probes`."""
    prompts: list[EncodedPrompt] = []
    for entity, probe in all_probes(entities):
        prompt = probe.prompt(full_sentence=full_sentence)
        text = after_definition((context or {}).get(entity.key, ""), prompt.text)
        prompts.append(encode_prompt(model, replace(prompt, text=text)))
    if not prompts:
        raise LensFVError(f"ask {model.name} about {len(entities)} entities: they have no probes")
    return prompts
