"""What a model makes of probes: which candidates it takes, and how surprised it is by the answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_fv.core.choices import Seed, checked
from lens_fv.core.display import summary_text
from lens_fv.core.statistics import Estimate, choice_shares, estimate
from lens_fv.knowledge.entity import Kind

Norm = Literal["mean", "sum"]


@checked
@dataclass(frozen=True, repr=False)
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

    def __repr__(self) -> str:
        return summary_text("KnowledgeScores", self.summary())

    def summary(self) -> dict[str, str]:
        """What a reader wants to know first, label by label."""
        asked = {"probes": f"{len(self.entities)} of {len(set(self.entities))} entities"}
        found = {"accuracy": self.accuracy(), "perplexity": self.perplexity()}
        return asked | {what: f"{e.mean:.3g} [{e.low:.3g}, {e.high:.3g}]" for what, e in found.items() if e}

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

    @checked
    def correct(self, *, norm: Norm = "mean", kind: Kind = "") -> dict[str, list[float]]:
        """Whether the answer is the likeliest candidate (1 or 0; 1/k if k tie), for each entity's probes.

        Args:
            norm: "mean": log-probability a token. "sum": of the whole candidate, as Onoe et al. (2022) score it.
            kind: of the probes; empty: of any.
        """
        scores = self.logprobs / self.lengths.clamp(min=1) if norm == "mean" else self.logprobs
        right = torch.cat([choice_shares(row[:, None], answer) for row, answer in zip(scores, self.answers, strict=True)])
        return self._by_entity(right, kind, choices=True)

    @checked
    def span_loss(self, *, kind: Kind = "") -> dict[str, list[float]]:
        """Mean negative log-probability of an answer's tokens, in nats a token, for each entity's probes."""
        at = torch.tensor(self.answers)[:, None]
        return self._by_entity((-self.logprobs.gather(1, at) / self.lengths.gather(1, at))[:, 0], kind)

    @checked
    def accuracy(self, *, norm: Norm = "mean", kind: Kind = "", seed: Seed = 0) -> Estimate | None:
        """Share of probes whose answer is the likeliest candidate, mean over entities, with a bootstrap interval over them.

        None where no probe has candidates.
        """
        return _over_entities(self.correct(norm=norm, kind=kind), seed)

    @checked
    def perplexity(
        self, *, kind: Kind = "", over: Literal["entities", "probes"] = "entities", seed: Seed = 0
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


def _over_entities(values: Mapping[str, Sequence[float]], seed: int) -> Estimate | None:
    means = [sum(each) / len(each) for each in values.values()]
    return estimate(means, seed=seed) if means else None
