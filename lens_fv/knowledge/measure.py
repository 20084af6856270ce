"""Score entity probes: test whether a model knows what follows from an entity's definition."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from lens_fv.core.progress import progress_bar
from lens_fv.errors import LensFVError
from lens_fv.knowledge.entity import Entity
from lens_fv.knowledge.scores import KnowledgeScores
from lens_fv.model.lens_model import LensModel
from lens_fv.patching import AnswerScorer, Edit
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
        model: model to score.
        entities: entities with probes.
        context: text to put before a probe, by entity key; `definitions(entities)` gives the upper bound for learning.
        full_sentence: whether to score the rest of the sentence along with each candidate.
        progress: whether to show a progress bar.

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
    encoded = probe_prompts(model, entities, context=context, full_sentence=full_sentence)
    asked = [(entity, probe) for entity in entities for probe in entity.probes]
    most = max(len(each.answers) for each in encoded)
    logprobs = torch.full((len(branches), len(asked), most), -torch.inf)
    lengths = torch.zeros(len(asked), most, dtype=torch.long)
    scorer = AnswerScorer(model, encoded)
    with progress_bar("probes", len(scorer), show=progress) as tick:
        for found in scorer.each(branches, keep=False, tick=tick):
            logprobs[:, found.prompt, found.answer] = found.logprobs.sum(-1)
            lengths[found.prompt, found.answer] = found.logprobs.shape[1]
    about = {
        "entities": tuple(entity.key for entity, _ in asked),
        "kinds": tuple(probe.kind for _, probe in asked),
        "answers": tuple(probe.candidates.index(probe.answer) if probe.candidates else 0 for _, probe in asked),
    }
    return [KnowledgeScores(**about, logprobs=each, lengths=lengths) for each in logprobs]


def probe_prompts(
    model: LensModel, entities: Sequence[Entity], *, context: Mapping[str, str] | None = None, full_sentence: bool = False
) -> list[EncodedPrompt]:
    """Encode the text before each probe's gap, entity by entity, with the candidates as answers; see `score_probes`."""
    asked = [(entity, probe) for entity in entities for probe in entity.probes]
    if not asked:
        raise LensFVError(f"ask {model.name} about {len(entities)} entities: they have no probes")
    encoded: list[EncodedPrompt] = []
    for entity, probe in asked:
        bare = probe.prompt(full_sentence=full_sentence)
        encoded.append(
            encode_prompt(model, replace(bare, text=after_definition((context or {}).get(entity.key, ""), bare.text)))
        )
    return encoded


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
    groups: dict[tuple[frozenset[str], str], Counter[str]] = {}
    for entity in entities:
        for probe in entity.probes:
            if probe.candidates:
                groups.setdefault((frozenset(probe.candidates), probe.kind), Counter())[probe.answer] += 1
    asked = sum(counts.total() for counts in groups.values())
    right = sum(max(c.values()) if c.total() > 1 else 1 / len(candidates) for (candidates, _), c in groups.items())
    return right / asked if asked else float("nan")
