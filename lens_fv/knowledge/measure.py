"""Score entity probes: test whether a model knows what follows from an entity's definition."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from lens_fv.errors import LensFVError
from lens_fv.knowledge.entity import Entity, all_probes
from lens_fv.knowledge.scores import KnowledgeScores
from lens_fv.model.lens_model import LensModel
from lens_fv.patching import Edit, score_each_answer
from lens_fv.tasks import EncodedPrompt, encode_prompt

JOIN = " "
"""Separator between a definition and the sentence after it."""


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
        full_sentence: Whether to score the rest of the sentence along with each candidate.
        progress: Whether to show a progress bar.

    Raises:
        LensFVError: no probes, a candidate without tokens, or a prompt longer than the context.
    """
    return score_probes_by_branch(model, entities, [()], context=context, full_sentence=full_sentence, progress=progress)[0]


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


def after_definition(definition: str, text: str) -> str:
    """Put the definition before the text, or return the text alone if the definition is empty."""
    return f"{definition}{JOIN}{text}" if definition else text


def definitions(entities: Sequence[Entity]) -> dict[str, str]:
    """Return each entity's definition by key, as context for the upper bound."""
    return {entity.key: entity.definition for entity in entities}


def majority(entities: Sequence[Entity]) -> float:
    """Compute the accuracy of always giving a question's most frequent answer.

    Probes with the same candidates and kind count as one question. A question with a single probe scores at chance.
    """
    questions: dict[tuple[frozenset[str], str], Counter[str]] = {}
    for _, probe in all_probes(entities):
        if probe.candidates:
            questions.setdefault((frozenset(probe.candidates), probe.kind), Counter())[probe.answer] += 1
    n_probes, n_correct = 0, 0.0
    for (candidates, _), answers in questions.items():
        n_probes += answers.total()
        n_correct += max(answers.values()) if answers.total() > 1 else 1 / len(candidates)
    return n_correct / n_probes if n_probes else float("nan")
