"""Does a model know what follows from an entity's definition?"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_fv.errors import LensFVError
from lens_fv.knowledge.entity import Entity, Kind
from lens_fv.model.lens_model import LensModel
from lens_fv.patching import AnswerScorer, Edit
from lens_fv.progress import progress_bar
from lens_fv.statistics import Estimate, estimate
from lens_fv.tasks import EncodedPrompt, encode_prompt

Norm = Literal["mean", "sum"]
JOIN = " "
"""Between a definition and the sentence behind it, everywhere."""


@dataclass(frozen=True)
class KnowledgeScores:
    """What a model makes of probes.

    Attributes:
        entities, kinds: the key of each probe's entity, and its kind.
        answers: where the answer stands among the candidates.
        logprobs: of each candidate, summed over its tokens, in nats; -inf where there are fewer.
        lengths: tokens of each candidate; 0 where there are fewer.
    """

    entities: tuple[str, ...]
    kinds: tuple[Kind, ...]
    answers: tuple[int, ...]
    logprobs: Float[Tensor, "probes candidates"]
    lengths: Int[Tensor, "probes candidates"]

    @classmethod
    def of_rows(cls, rows: Sequence[Mapping[str, Any]]) -> "KnowledgeScores":
        """Scores from what `rows` gave."""
        most = max(len(row["logprobs"]) for row in rows)
        logprobs, lengths = torch.full((len(rows), most), -torch.inf), torch.zeros(len(rows), most, dtype=torch.long)
        for i, row in enumerate(rows):
            logprobs[i, : len(row["logprobs"])] = torch.tensor(row["logprobs"])
            lengths[i, : len(row["lengths"])] = torch.tensor(row["lengths"])
        entities, kinds, answers = (tuple(row[key] for row in rows) for key in ("entity", "kind", "answer"))
        return cls(entities, kinds, answers, logprobs, lengths)

    def rows(self) -> list[dict[str, Any]]:
        """Probe by probe, as JSON has it: entity, kind, which candidate is the answer, each one's logprobs and lengths."""
        about = zip(self.entities, self.kinds, self.answers, self.logprobs.tolist(), self.lengths.tolist(), strict=True)
        return [
            {
                "entity": entity,
                "kind": kind,
                "answer": answer,
                "logprobs": [value for value, length in zip(logprobs, lengths, strict=True) if length],
                "lengths": [length for length in lengths if length],
            }
            for entity, kind, answer, logprobs, lengths in about
        ]

    def correct(self, *, norm: Norm = "mean", kind: Kind = "") -> dict[str, list[float]]:
        """Whether the answer is the likeliest candidate (1 or 0), for each entity's probes.

        Args:
            norm: "mean": log-probability a token. "sum": of the whole candidate, as Onoe et al. (2022) score it.
            kind: of the probes; empty: of any.
        """
        scores = self.logprobs / self.lengths.clamp(min=1) if norm == "mean" else self.logprobs
        right = (scores.argmax(1) == torch.tensor(self.answers)) & ((self.lengths > 0).sum(1) > 1)
        return self._by_entity(right.float(), kind, choices=True)

    def span_loss(self, *, kind: Kind = "") -> dict[str, list[float]]:
        """Mean negative log-probability of an answer's tokens, in nats a token, for each entity's probes."""
        at = torch.tensor(self.answers)[:, None]
        return self._by_entity((-self.logprobs.gather(1, at) / self.lengths.gather(1, at))[:, 0], kind)

    def accuracy(self, *, norm: Norm = "mean", kind: Kind = "", seed: int = 0) -> Estimate | None:
        """Share of probes whose answer is the likeliest candidate, mean over entities, with a bootstrap interval over them.

        None where no probe has candidates.
        """
        return _over_entities(self.correct(norm=norm, kind=kind), seed)

    def perplexity(
        self, *, kind: Kind = "", over: Literal["entities", "probes"] = "entities", seed: int = 0
    ) -> Estimate | None:
        """Of the answers' spans: the exponential of the mean over probes of the mean loss a token (Onoe et al. 2023).

        Args:
            kind: of the probes; empty: of any.
            over: "entities": every entity counts once, and the interval is over them. "probes": every probe.
            seed: of the bootstrap.
        """
        losses = self.span_loss(kind=kind)
        if over == "probes":
            losses = {f"{key} {i}": [loss] for key, each in losses.items() for i, loss in enumerate(each)}
        found = _over_entities(losses, seed)
        if found is None:
            return None
        mean, low, high = torch.tensor([found.mean, found.low, found.high]).exp().tolist()
        return Estimate(mean, low, high, found.n)

    @property
    def chance(self) -> float:
        """Accuracy of choosing any candidate, over probes that have some; not a number where none has."""
        counts = (self.lengths > 0).sum(1)
        return float((1 / counts[counts > 1]).mean())

    def _by_entity(self, values: Float[Tensor, " probes"], kind: Kind, *, choices: bool = False) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        several = ((self.lengths > 0).sum(1) > 1).tolist()
        for key, each, value, has in zip(self.entities, self.kinds, values.tolist(), several, strict=True):
            if kind in ("", each) and (has or not choices):
                found.setdefault(key, []).append(value)
        return found


def ask(
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
    return ask_each(model, entities, [()], context=context, whole=whole, progress=progress)[0]


def ask_each(
    model: LensModel,
    entities: Sequence[Entity],
    branches: Sequence[Sequence[Edit]],
    *,
    context: Mapping[str, str] | None = None,
    whole: bool = False,
    progress: bool = False,
) -> list[KnowledgeScores]:
    """`ask`, with the edits of each branch: their values and positions are for all probes, or one for each.

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
    """What stands before each probe's gap, entity after entity, with the candidates as answers; see `ask`."""
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


def _over_entities(values: Mapping[str, Sequence[float]], seed: int) -> Estimate | None:
    means = [sum(each) / len(each) for each in values.values()]
    return estimate(means, seed=seed) if means else None
