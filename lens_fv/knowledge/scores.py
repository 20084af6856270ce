"""Scores on entity probes: accuracy over candidates, and loss and perplexity of the answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_fv.core.choices import Seed, checked
from lens_fv.core.json_files import record, validated
from lens_fv.core.results import Record
from lens_fv.core.statistics import Estimate, choice_shares, estimate
from lens_fv.core.tables import data_frame
from lens_fv.knowledge.entity import Kind

if TYPE_CHECKING:
    import pandas as pd

Norm = Literal["mean", "sum"]


@dataclass(frozen=True)
class _Row:
    """A probe in a file; see `KnowledgeScores.rows`."""

    entity: str
    kind: Kind
    answer: int
    logprobs: list[float]
    lengths: list[int]


@checked
@dataclass(frozen=True, repr=False)
class KnowledgeScores(Record):
    """A model's scores on entity probes.

    Attributes:
        entities, kinds: entity key and kind of each probe.
        answers: index of the answer among the candidates.
        logprobs: log-probability of each candidate, summed over its tokens, in nats; -inf where a probe has fewer candidates.
        lengths: number of tokens of each candidate; 0 where a probe has fewer candidates.
    """

    entities: tuple[str, ...]
    kinds: tuple[Kind, ...]
    answers: tuple[int, ...]
    logprobs: Float[Tensor, "probes candidates"]
    lengths: Int[Tensor, "probes candidates"]

    def summary(self) -> dict[str, str]:
        """Return the key results by label."""
        asked = {"probes": f"{len(self.entities)} of {len(set(self.entities))} entities"}
        found = {"accuracy": self.accuracy(), "perplexity": self.perplexity()}
        return asked | {what: f"{e:.3g}" for what, e in found.items() if e}

    def to_dataframe(self) -> "pd.DataFrame":
        """One row per probe: the answer's score, rank among the candidates, log-probability, length and loss.

        `correct` and `rank` compare candidates by log-probability per token; both are empty for probes without candidates.
        """
        right = self.correct_by_probe(norm="mean").tolist()
        per_token = self.logprobs / self.lengths.clamp(min=1)
        rows: list[dict[str, Any]] = []
        for i, (entity, kind, answer) in enumerate(zip(self.entities, self.kinds, self.answers, strict=True)):
            logprob, n, candidates = (
                float(self.logprobs[i, answer]),
                int(self.lengths[i, answer]),
                int((self.lengths[i] > 0).sum()),
            )
            rank = 1 + int((per_token[i] > per_token[i, answer]).sum())
            rows.append(
                {
                    "entity": entity,
                    "kind": kind,
                    "n_candidates": candidates,
                    "correct": right[i] if candidates > 1 else None,
                    "rank": rank if candidates > 1 else None,
                    "logprob_per_answer": logprob,
                    "n_tokens": n,
                    "loss_nats_per_token": -logprob / n,
                }
            )
        return data_frame(rows)

    def to_json(self) -> Any:
        """See `rows`."""
        return self.rows()

    @classmethod
    def from_json(cls, values: Any, context: str) -> "KnowledgeScores":
        """The scores that `to_json` wrote."""
        return cls.of_rows(
            [record(_Row, validated(row, dict, context), context) for row in validated(values, list[Any], context)]
        )

    @classmethod
    def of_rows(cls, rows: Sequence[Mapping[str, Any]]) -> "KnowledgeScores":
        """Restore scores from the output of `rows`."""
        most = max(len(row["logprobs"]) for row in rows)
        logprobs, lengths = torch.full((len(rows), most), -torch.inf), torch.zeros(len(rows), most, dtype=torch.long)
        for i, row in enumerate(rows):
            logprobs[i, : len(row["logprobs"])] = torch.tensor(row["logprobs"])
            lengths[i, : len(row["lengths"])] = torch.tensor(row["lengths"])
        entities, kinds, answers = (tuple(row[key] for row in rows) for key in ("entity", "kind", "answer"))
        return cls(entities, kinds, answers, logprobs, lengths)

    def rows(self) -> list[dict[str, Any]]:
        """Return one JSON-compatible record per probe.

        Each has the entity, the kind, the index of the answer, and each candidate's log-probability and length.
        """
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
        """Return each entity's probe scores: 1 if the answer is the most likely candidate, 1/k if k candidates tie, else 0.

        Args:
            norm: "mean" ranks candidates by log-probability per token, "sum" by that of the whole candidate, as Onoe et al.
                (2022) do.
            kind: kind of probes to use; empty: all.
        """
        return self._by_entity(self.correct_by_probe(norm=norm), kind, choices=True)

    @checked
    def correct_by_probe(self, *, norm: Norm = "mean") -> Float[Tensor, " probes"]:
        """The score of every probe; see `correct`."""
        scores = self.logprobs / self.lengths.clamp(min=1) if norm == "mean" else self.logprobs
        return torch.cat([choice_shares(row[:, None], answer) for row, answer in zip(scores, self.answers, strict=True)])

    @checked
    def span_loss(self, *, kind: Kind = "") -> dict[str, list[float]]:
        """Return the mean negative log-probability of the answers' tokens, in nats per token, for each entity's probes."""
        at = torch.tensor(self.answers)[:, None]
        return self._by_entity((-self.logprobs.gather(1, at) / self.lengths.gather(1, at))[:, 0], kind)

    @checked
    def accuracy(self, *, norm: Norm = "mean", kind: Kind = "", seed: Seed = 0) -> Estimate | None:
        """Compute accuracy, averaged over entities, with a bootstrap interval over entities.

        A probe is correct if its answer is the most likely candidate. The result is None if no probe has candidates.
        """
        return _over_entities(self.correct(norm=norm, kind=kind), seed)

    @checked
    def perplexity(
        self, *, kind: Kind = "", over: Literal["entities", "probes"] = "entities", seed: Seed = 0
    ) -> Estimate | None:
        """Compute the answers' perplexity: exp of the mean over probes of the mean loss per token (Onoe et al. 2023).

        Args:
            kind: kind of probes to use; empty: all.
            over: "entities" weights every entity equally, with the interval over entities; "probes" weights every probe
                equally.
            seed: seed of the bootstrap.
        """
        losses = self.span_loss(kind=kind)
        if over == "probes":
            losses = {f"{key} {i}": [loss] for key, each in losses.items() for i, loss in enumerate(each)}
        loss = _over_entities(losses, seed)
        return loss and perplexity_of(loss)

    @property
    def chance(self) -> float:
        """Chance accuracy over the probes that have several candidates; NaN if none has."""
        counts = (self.lengths > 0).sum(1)
        return float((1 / counts[counts > 1]).mean())

    def _by_entity(self, values: Float[Tensor, " probes"], kind: Kind, *, choices: bool = False) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        several = ((self.lengths > 0).sum(1) > 1).tolist()
        for key, each, value, has in zip(self.entities, self.kinds, values.tolist(), several, strict=True):
            if kind in ("", each) and (has or not choices):
                found.setdefault(key, []).append(value)
        return found


def perplexity_of(loss: Estimate) -> Estimate:
    """Convert a mean loss per token, in nats, to a perplexity."""
    *values, n = loss
    mean, low, high = torch.tensor(values).exp().tolist()
    return Estimate(mean, low, high, n)


def _over_entities(values: Mapping[str, Sequence[float]], seed: int) -> Estimate | None:
    means = [sum(each) / len(each) for each in values.values()]
    return estimate(means, seed=seed) if means else None
