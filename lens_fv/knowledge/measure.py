"""Does a model know what follows from an entity's definition?"""

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
"""Between a definition and the sentence behind it, everywhere."""


def score_probes(
    model: LensModel,
    entities: Sequence[Entity],
    *,
    context: Mapping[str, str] | None = None,
    whole: bool = False,
    progress: bool = False,
) -> KnowledgeScores:
    """Ask a model every probe of some entities: each candidate is read by itself behind what stands before the gap.

    Args:
        model: the model.
        entities: with their probes.
        context: what it reads before a probe, by the entity's key: `definitions(entities)` for what it could learn at best.
        whole: score the rest of the sentence with each candidate.
        progress: draw a progress bar.

    Raises:
        LensFVError: there are no probes, a candidate has no tokens, or a prompt is longer than the context.
    """
    return score_probes_by_branch(model, entities, [()], context=context, whole=whole, progress=progress)[0]


def score_probes_by_branch(
    model: LensModel,
    entities: Sequence[Entity],
    branches: Sequence[Sequence[Edit]],
    *,
    context: Mapping[str, str] | None = None,
    whole: bool = False,
    progress: bool = False,
) -> list[KnowledgeScores]:
    """`score_probes`, with the edits of each branch: their values and positions are for all probes, or one for each.

    The order of probes is that of `probe_prompts`.
    """
    encoded = probe_prompts(model, entities, context=context, whole=whole)
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
    model: LensModel, entities: Sequence[Entity], *, context: Mapping[str, str] | None = None, whole: bool = False
) -> list[EncodedPrompt]:
    """What stands before each probe's gap, entity after entity, with the candidates as answers; see `score_probes`."""
    asked = [(entity, probe) for entity in entities for probe in entity.probes]
    if not asked:
        raise LensFVError(f"ask {model.name} about {len(entities)} entities: they have no probes")
    encoded: list[EncodedPrompt] = []
    for entity, probe in asked:
        bare = probe.prompt(whole=whole)
        encoded.append(encode_prompt(model, replace(bare, text=behind((context or {}).get(entity.key, ""), bare.text))))
    return encoded


def behind(definition: str, text: str) -> str:
    """A text behind a definition, or alone where that is empty."""
    return f"{definition}{JOIN}{text}" if definition else text


def definitions(entities: Sequence[Entity]) -> dict[str, str]:
    """Each entity's definition by its key: as context, what a model that has read it makes of the probes."""
    return {entity.key: entity.definition for entity in entities}


def majority(entities: Sequence[Entity]) -> float:
    """Accuracy of the most frequent answer of each question: of probes that share their candidates and their kind.

    A question that is asked once counts as chance.
    """
    groups: dict[tuple[frozenset[str], str], Counter[str]] = {}
    for entity in entities:
        for probe in entity.probes:
            if probe.candidates:
                groups.setdefault((frozenset(probe.candidates), probe.kind), Counter())[probe.answer] += 1
    asked = sum(counts.total() for counts in groups.values())
    right = sum(max(c.values()) if c.total() > 1 else 1 / len(candidates) for (candidates, _), c in groups.items())
    return right / asked if asked else float("nan")
