"""Scores on entity probes: accuracy over candidates, and loss and perplexity of the answers."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lens_fv.core.choices import Seed, checked
from lens_fv.core.json_files import record, validated
from lens_fv.core.results import Record
from lens_fv.core.statistics import Estimate, choice_shares, estimate
from lens_fv.core.tables import DataFrame, data_frame
from lens_fv.errors import LensFVError
from lens_fv.knowledge.entity import Kind

Norm = Literal["mean", "sum"]


@dataclass(frozen=True)
class _ProbeRow:
    """A probe in a file, with the log-probability and length of each candidate."""

    entity: str
    kind: Kind
    answer: int
    logprobs: tuple[float, ...]
    lengths: tuple[int, ...]


@checked
@dataclass(frozen=True, repr=False)
class KnowledgeScores(Record):
    """A model's scores on entity probes.

    Attributes:
        entities, kinds: Entity key and kind of each probe.
        answers: Index of the answer among the candidates.
        logprobs: Log-probability of each candidate, summed over its tokens, in nats; -inf where a probe has fewer candidates.
        lengths: Number of tokens of each candidate; 0 where a probe has fewer candidates.
    """

    entities: tuple[str, ...]
    kinds: tuple[Kind, ...]
    answers: tuple[int, ...]
    logprobs: Float[Tensor, "probes candidates"]
    lengths: Int[Tensor, "probes candidates"]

    def summary(self) -> dict[str, str]:
        """Return the key results by label."""
        facts = {"probes": f"{len(self.entities)} of {len(set(self.entities))} entities"}
        for label, value in (("accuracy", self.accuracy()), ("perplexity", self.perplexity())):
            if value:
                facts[label] = f"{value:.3g}"
        return facts

    def to_dataframe(self) -> DataFrame:
        """One row per probe: the answer's score, rank among the candidates, log-probability, length and loss.

        `correct` and `rank` compare candidates by log-probability per token; both are empty for probes without candidates.
        """
        correct, per_token = self.correct_by_probe(norm="mean").tolist(), self.logprobs / self.lengths.clamp(min=1)
        rows: list[dict[str, Any]] = []
        for i, answer in enumerate(self.answers):
            logprob, n_tokens = float(self.logprobs[i, answer]), int(self.lengths[i, answer])
            has_choices = bool(self._n_candidates[i] > 1)
            rows.append(
                {
                    "entity": self.entities[i],
                    "kind": self.kinds[i],
                    "n_candidates": int(self._n_candidates[i]),
                    "correct": correct[i] if has_choices else None,
                    "rank": 1 + int((per_token[i] > per_token[i, answer]).sum()) if has_choices else None,
                    "logprob_per_answer": logprob,
                    "n_tokens": n_tokens,
                    "loss_nats_per_token": -logprob / n_tokens,
                }
            )
        return data_frame(rows)

    def to_json(self) -> list[dict[str, Any]]:
        """One object per probe: entity, kind, index of the answer, and each candidate's log-probability and length."""
        rows: list[dict[str, Any]] = []
        for i, n in enumerate(self._n_candidates.tolist()):
            logprobs, lengths = tuple(self.logprobs[i, :n].tolist()), tuple(self.lengths[i, :n].tolist())
            rows.append(asdict(_ProbeRow(self.entities[i], self.kinds[i], self.answers[i], logprobs, lengths)))
        return rows

    @classmethod
    def from_json(cls, values: Any, context: str) -> "KnowledgeScores":
        """The scores that `to_json` wrote."""
        rows = [record(_ProbeRow, value, context) for value in validated(values, list[Any], context)]
        if not rows or not all(0 <= row.answer < len(row.logprobs) == len(row.lengths) for row in rows):
            raise LensFVError(
                f"{context}: no probes, or one without a log-probability and length of each candidate; make it again"
            )
        return cls(
            entities=tuple(row.entity for row in rows),
            kinds=tuple(row.kind for row in rows),
            answers=tuple(row.answer for row in rows),
            logprobs=pad_sequence([torch.tensor(row.logprobs) for row in rows], batch_first=True, padding_value=-torch.inf),
            lengths=pad_sequence([torch.tensor(row.lengths) for row in rows], batch_first=True),
        )

    @checked
    def correct(self, *, norm: Norm = "mean", kind: Kind = "") -> dict[str, list[float]]:
        """Return each entity's probe scores: 1 if the answer is the most likely candidate, 1/k if k candidates tie, else 0.

        Args:
            norm: "mean" ranks candidates by log-probability per token, "sum" by that of the whole candidate, as Onoe et al.
                (2022) do.
            kind: Kind of probes to use; empty: all.
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
        answers = torch.tensor(self.answers)[:, None]
        losses = -self.logprobs.gather(1, answers) / self.lengths.gather(1, answers)
        return self._by_entity(losses[:, 0], kind)

    @checked
    def accuracy(self, *, norm: Norm = "mean", kind: Kind = "", seed: Seed = 0) -> Estimate | None:
        """Compute accuracy, averaged over entities, with a bootstrap interval over entities.

        A probe is correct if its answer is the most likely candidate. The result is None if no probe has candidates.
        """
        means = _entity_means(self.correct(norm=norm, kind=kind))
        return estimate(means, seed=seed) if means else None

    @checked
    def perplexity(
        self, *, kind: Kind = "", over: Literal["entities", "probes"] = "entities", seed: Seed = 0
    ) -> Estimate | None:
        """Compute the answers' perplexity: exp of the mean over probes of the mean loss per token (Onoe et al. 2023).

        Args:
            kind: Kind of probes to use; empty: all.
            over: "entities" weights every entity equally, with the interval over entities; "probes" weights every probe
                equally.
            seed: Seed of the bootstrap.
        """
        losses = self.span_loss(kind=kind)
        values = _entity_means(losses) if over == "entities" else list(chain(*losses.values()))
        return perplexity_of(estimate(values, seed=seed)) if values else None

    @property
    def chance(self) -> float:
        """Chance accuracy over the probes that have several candidates; NaN if none has."""
        counts = self._n_candidates
        return float((1 / counts[counts > 1]).mean())

    @property
    def _n_candidates(self) -> Int[Tensor, " probes"]:
        return (self.lengths > 0).sum(1)

    def _by_entity(self, values: Float[Tensor, " probes"], kind: Kind, *, choices: bool = False) -> dict[str, list[float]]:
        """Group the values of the probes of a kind, optionally only of those with several candidates."""
        by_entity: dict[str, list[float]] = {}
        selected = self._n_candidates > (1 if choices else 0)
        for i, value in enumerate(values.tolist()):
            if kind in ("", self.kinds[i]) and selected[i]:
                by_entity.setdefault(self.entities[i], []).append(value)
        return by_entity


def perplexity_of(loss: Estimate) -> Estimate:
    """Convert a mean loss per token, in nats, to a perplexity."""
    *values, n = loss
    mean, low, high = torch.tensor(values).exp().tolist()
    return Estimate(mean, low, high, n)


def _entity_means(values: Mapping[str, Sequence[float]]) -> list[float]:
    return [sum(own) / len(own) for own in values.values()]
