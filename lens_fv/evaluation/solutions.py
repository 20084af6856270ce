"""Results of evaluating analogies: scores per analogy, and summaries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_fv.core.choices import checked
from lens_fv.core.statistics import Estimate, estimate, proportion
from lens_fv.errors import LensFVError
from lens_fv.evaluation.results import ConditionScores, Scores


class AnalogyResult(NamedTuple):
    """Scores of one condition over all analogies.

    Attributes:
        condition: See `evaluate_analogies`.
        top1: Share of analogies where the most likely token begins an acceptable answer, with Wilson's interval.
        exact_match: Share of analogies where greedy decoding produces a complete acceptable answer, with Wilson's interval.
        logprob_per_token: Mean log-probability of the best acceptable answer, in nats per token, with its bootstrap interval.
        mc_accuracy: Multiple-choice accuracy by mean log-probability per token, with Wilson's interval; if k choices tie for
            the best and the correct one is among them, it counts 1/k. NaN without multiple-choice questions.
        calibrated_mc_accuracy: The same after subtracting each choice's log-probability without a vector. In the condition
            without a vector all choices then tie, which gives chance level.
        n_choice: Number of multiple-choice questions.
    """

    condition: str
    top1: Estimate
    exact_match: Estimate
    logprob_per_token: Estimate
    mc_accuracy: Estimate
    calibrated_mc_accuracy: float
    n_choice: int


@dataclass(frozen=True, repr=False, eq=False)
class AnalogyEvaluation(ConditionScores[AnalogyResult]):
    """Scores of every analogy in every condition; `conditions` names the conditions.

    Attributes:
        relations: Relation of each analogy, "" if unknown.
        has_choices: Mask of the analogies with choices.
        top1, exact_match, logprob: Per-analogy values; see `AnalogyResult`.
        choice, calibrated: 1 if the correct choice won, its share in a tie, otherwise 0.
        weights: Weights of the composite.
        source_gain: Gain in log-probability of B after A under the composite, in nats per token.
        distance: Distance between A and C, 1 - cosine of their mean word embeddings; small for near analogies.
    """

    relations: tuple[str, ...]
    has_choices: Bool[Tensor, " analogies"]
    top1: Bool[Tensor, "analogies conditions"]
    exact_match: Bool[Tensor, "analogies conditions"]
    logprob: Float[Tensor, "analogies conditions"]
    choice: Float[Tensor, "analogies conditions"]
    calibrated: Float[Tensor, "analogies conditions"]
    weights: Float[Tensor, "analogies relations"]
    source_gain: Float[Tensor, " analogies"]
    distance: Float[Tensor, " analogies"]

    def __getitem__(self, condition: str) -> AnalogyResult:
        """See `ConditionScores`."""
        return self.result(condition)

    def result(self, condition: str, mask: Bool[Tensor, " analogies"] | None = None) -> AnalogyResult:
        """Summarise one condition over all analogies or a subset.

        Raises:
            LensFVError: no such condition, or an empty subset.
        """
        i = self.column(condition)
        rows = torch.ones_like(self.has_choices) if mask is None else mask
        n, choices = int(rows.sum()), rows & self.has_choices
        if not n:
            raise LensFVError(f"analogies under {condition}: none is left")
        n_choice = int(choices.sum())
        no_choice = Estimate(*[float("nan")] * 3, n=0)
        return AnalogyResult(
            condition=condition,
            top1=proportion(int(self.top1[rows, i].sum()), n),
            exact_match=proportion(int(self.exact_match[rows, i].sum()), n),
            logprob_per_token=estimate(self.logprob[rows, i].tolist(), seed=self.provenance.seed),
            mc_accuracy=proportion(float(self.choice[choices, i].sum()), n_choice) if n_choice else no_choice,
            calibrated_mc_accuracy=float(self.calibrated[choices, i].float().mean()),
            n_choice=n_choice,
        )

    @checked
    def difference(
        self,
        condition: str,
        baseline: str = "one_shot",
        *,
        measure: Literal["top1", "exact_match", "logprob"] = "top1",
        mask: Bool[Tensor, " analogies"] | None = None,
    ) -> Estimate:
        """Estimate the paired difference between two conditions over analogies, with a bootstrap interval.

        Args:
            condition: One of `conditions`.
            baseline: Condition to subtract.
            measure: "top1" or "exact_match" (shares of analogies), or "logprob" (nats per token).
            mask: Mask of the analogies to use; default: all.

        Raises:
            LensFVError: no such condition, or an empty subset.
        """
        minuend, subtrahend = self.column(condition), self.column(baseline)
        rows = torch.ones_like(self.has_choices) if mask is None else mask
        if not rows.any():
            raise LensFVError(f"compare {condition} with {baseline}: no analogy is left")
        values = getattr(self, measure)[rows].float()
        return estimate((values[:, minuend] - values[:, subtrahend]).tolist(), seed=self.provenance.seed)

    def by_relation(self) -> dict[str, Bool[Tensor, " analogies"]]:
        """Masks of the analogies of each relation, in order of first occurrence."""
        return {name: torch.tensor([relation == name for relation in self.relations]) for name in dict.fromkeys(self.relations)}

    def far(self) -> Bool[Tensor, " analogies"]:
        """Mask of the half of the analogies with the larger distance between A and C."""
        return self.distance > self.distance.median()

    def item_scores(self) -> tuple[Mapping[str, Sequence[object]], Scores]:
        """See `ConditionScores`."""
        items = {"analogy": range(len(self.relations)), "relation": self.relations, "distance": self.distance.tolist()}
        scores: dict[str, Any] = {"top1": self.top1, "exact_match": self.exact_match, "logprob_per_token": self.logprob}
        for name, tensor in (("mc_accuracy", self.choice), ("calibrated_mc_accuracy", self.calibrated)):
            rows = zip(tensor.tolist(), self.has_choices.tolist(), strict=True)
            scores[name] = [row if has_choices else [None] * len(row) for row, has_choices in rows]
        return items, scores

    def summary(self) -> dict[str, str]:
        """See `Artefact.summary`."""
        rows = {
            r.condition: f"top-1 {r.top1}, log-prob per token {r.logprob_per_token.mean:.2f} nats, "
            f"multiple choice {r.mc_accuracy.mean:.2f}"
            for r in self.results
        }
        return super().summary() | {"analogies": str(len(self.top1))} | rows
