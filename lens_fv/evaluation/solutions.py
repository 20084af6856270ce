"""What every condition does to every analogy, and what that comes to."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_fv.core.artefact import Artefact
from lens_fv.core.choices import checked
from lens_fv.core.statistics import Estimate, bootstrap_interval, estimate, wilson_interval
from lens_fv.errors import LensFVError


class AnalogyResult(NamedTuple):
    """One condition over all analogies.

    Attributes:
        condition: see `evaluate_analogies`.
        top1: share whose likeliest first token begins an acceptable answer; `low`, `high`: Wilson interval.
        n: analogies.
        full: share for which greedy decoding writes an acceptable answer to its end.
        logprob_per_token: log-probability of the best acceptable answer's tokens, per token, in nats; `logprob_low`,
            `logprob_high`: bootstrap.
        choice: share of multiple choices won by mean log-probability a token; where k choices tie for the best and the
            right one is among them, 1/k of it is won. `choice_low`, `choice_high`: Wilson interval; not a number without any.
        calibrated: the same, less what each choice has without any vector. Without one all choices tie: that is chance.
        n_choice: multiple choices.
    """

    condition: str
    top1: float
    low: float
    high: float
    n: int
    full: float
    logprob_per_token: float
    logprob_low: float
    logprob_high: float
    choice: float
    choice_low: float
    choice_high: float
    calibrated: float
    n_choice: int


@dataclass(frozen=True, repr=False, eq=False)
class AnalogyEvaluation(Artefact):
    """What every condition does to every analogy.

    Attributes:
        conditions: their names, in the order of the last axis.
        relations: of the analogies, "" where unknown.
        has_choices: which analogies have choices.
        top1, full, logprob: see `AnalogyResult`, analogy by analogy.
        choice, calibrated: whether the right choice won; a tie counts its share.
        weights: of the composite.
        source_gain: how much likelier the composite makes B behind A, in nats a token.
        distance: between A and C: 1 - cosine of their words' mean embeddings. Near analogies have small ones.
    """

    conditions: tuple[str, ...]
    relations: tuple[str, ...]
    has_choices: Bool[Tensor, " analogies"]
    top1: Bool[Tensor, "analogies conditions"]
    full: Bool[Tensor, "analogies conditions"]
    logprob: Float[Tensor, "analogies conditions"]
    choice: Float[Tensor, "analogies conditions"]
    calibrated: Float[Tensor, "analogies conditions"]
    weights: Float[Tensor, "analogies relations"]
    source_gain: Float[Tensor, " analogies"]
    distance: Float[Tensor, " analogies"]

    @property
    def results(self) -> list[AnalogyResult]:
        """One row a condition."""
        return [self.result(condition) for condition in self.conditions]

    def result(self, condition: str, among: Bool[Tensor, " analogies"] | None = None) -> AnalogyResult:
        """The row of one condition, over all analogies or some of them.

        Raises:
            LensFVError: no analogy is among them.
        """
        i = self.conditions.index(condition)
        some = torch.ones_like(self.has_choices) if among is None else among
        n, asked = int(some.sum()), some & self.has_choices
        if not n:
            raise LensFVError(f"analogies under {condition}: none is left")
        hits, m, won = int(self.top1[some, i].sum()), int(asked.sum()), float(self.choice[asked, i].sum())
        logprobs: list[float] = self.logprob[some, i].tolist()
        choice, low, high = (won / m, *wilson_interval(won, m)) if m else (float("nan"),) * 3
        return AnalogyResult(
            condition,
            hits / n,
            *wilson_interval(hits, n),
            n,
            float(self.full[some, i].float().mean()),
            sum(logprobs) / n,
            *bootstrap_interval(logprobs, seed=self.provenance.seed),
            choice,
            low,
            high,
            float(self.calibrated[asked, i].float().mean()),
            m,
        )

    @checked
    def difference(
        self,
        condition: str,
        than: str = "one_shot",
        *,
        measure: Literal["top1", "full", "logprob"] = "top1",
        among: Bool[Tensor, " analogies"] | None = None,
    ) -> Estimate:
        """How much better one condition is than another, analogy by analogy (paired), with a bootstrap interval.

        Args:
            condition: one of `conditions`.
            than: another.
            measure: a share of analogies, or "logprob": nats a token.
            among: these analogies alone.

        Raises:
            LensFVError: a condition that is not there, or no analogy among them.
        """
        for name in (condition, than):
            if name not in self.conditions:
                raise LensFVError(f"compare {condition} with {than}: there are {', '.join(self.conditions)}")
        some = torch.ones_like(self.has_choices) if among is None else among
        if not some.any():
            raise LensFVError(f"compare {condition} with {than}: no analogy is left")
        values = getattr(self, measure)[some].float()
        one, other = (values[:, self.conditions.index(name)] for name in (condition, than))
        return estimate((one - other).tolist(), seed=self.provenance.seed)

    def by_relation(self) -> dict[str, Bool[Tensor, " analogies"]]:
        """Which analogies are of each relation, in the order in which relations come."""
        return {name: torch.tensor([each == name for each in self.relations]) for name in dict.fromkeys(self.relations)}

    def far(self) -> Bool[Tensor, " analogies"]:
        """The half of the analogies whose A and C are farther apart."""
        return self.distance > self.distance.median()

    def summary(self) -> dict[str, str]:
        """See `Artefact.summary`."""
        rows = {
            r.condition: f"top-1 {r.top1:.2f} [{r.low:.2f}, {r.high:.2f}], "
            f"log-prob a token {r.logprob_per_token:.2f}, choice {r.choice:.2f}"
            for r in self.results
        }
        return super().summary() | {"analogies": str(len(self.top1))} | rows
