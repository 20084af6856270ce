"""Results of evaluating vectors on a test split, by condition."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, Literal, NamedTuple, TypeVar

from jaxtyping import Bool, Float
from torch import Tensor

from lens_fv.core.artefact import Artefact
from lens_fv.core.choices import checked, nearest
from lens_fv.core.statistics import Estimate, estimate, proportion
from lens_fv.core.tables import DataFrame, data_frame
from lens_fv.errors import LensFVError
from lens_fv.heads.competence import queries_summary

PromptKind = Literal["zero_shot", "shuffled"]
Scores = Mapping[str, Tensor | Sequence[Sequence[object]]]
R = TypeVar("R")


@dataclass(frozen=True, repr=False, eq=False)
class ConditionScores(Artefact, ABC, Generic[R]):
    """Base of evaluations: scores of every item in every condition, and a result per condition.

    Attributes:
        conditions: Names of the conditions, in the order of the last axis of the scores.
    """

    conditions: tuple[str, ...]

    @abstractmethod
    def __getitem__(self, condition: str) -> R:
        """Return the result of one condition.

        Raises:
            LensFVError: no such condition.
        """

    @abstractmethod
    def item_scores(self) -> tuple[Mapping[str, Sequence[object]], Scores]:
        """The columns that describe the items, and the scores by item and condition."""

    @property
    def results(self) -> list[R]:
        """Results, one per condition."""
        return [self[condition] for condition in self.conditions]

    def column(self, condition: str) -> int:
        """Index of a condition on the last axis.

        Raises:
            LensFVError: no such condition.
        """
        if condition not in self.conditions:
            known = ", ".join(self.conditions) + nearest(condition, self.conditions)
            raise LensFVError(f"scores of {condition!r}: no such condition; there are {known}")
        return self.conditions.index(condition)

    @checked
    def to_dataframe(self, *, by: Literal["condition", "item"] = "condition") -> DataFrame:
        """One row per condition, with intervals, or one per item and condition, with the item's own scores."""
        if by == "condition":
            return data_frame(self.results)
        items, scores = self.item_scores()
        return item_table(items, self.conditions, scores)


class Result(NamedTuple):
    """Scores of one condition on the test split.

    Attributes:
        condition: "none", "k_shot", "random", "other_relation" or a vector's name.
        top1: Share of items where the most likely token begins an acceptable answer; with Wilson's interval, like the next two.
        top3: The same for the three most likely tokens.
        exact_match: Share of items where greedy decoding produces a complete acceptable answer.
        logprob_per_answer: Mean log-probability of the whole (best acceptable) answer, in nats, with its bootstrap interval.
            Longer answers score lower; analogies use `logprob_per_token`.
    """

    condition: str
    top1: Estimate
    top3: Estimate
    exact_match: Estimate
    logprob_per_answer: Estimate


@checked
@dataclass(frozen=True, repr=False, eq=False)
class Evaluation(ConditionScores[Result]):
    """Scores of every test item in every condition; `conditions` names the conditions.

    Attributes:
        prompts: "zero_shot" or "shuffled" (few-shot prompts with permuted labels); k-shot prompting always has clean
            labels.
        top1, top3, exact_match, logprob: See `AnswerScores`.
    """

    _MADE_BY: ClassVar[str] = "evaluate"

    prompts: PromptKind
    top1: Bool[Tensor, "items conditions"]
    top3: Bool[Tensor, "items conditions"]
    exact_match: Bool[Tensor, "items conditions"]
    logprob: Float[Tensor, "items conditions"]

    def __getitem__(self, condition: str) -> Result:
        """See `ConditionScores`."""
        i, n = self.column(condition), len(self.top1)
        shares = (proportion(int(correct[:, i].sum()), n) for correct in (self.top1, self.top3, self.exact_match))
        return Result(condition, *shares, logprob_per_answer=estimate(self.logprob[:, i].tolist(), seed=self.provenance.seed))

    def item_scores(self) -> tuple[Mapping[str, Sequence[object]], Scores]:
        """See `ConditionScores`."""
        scores = {"top1": self.top1, "top3": self.top3, "exact_match": self.exact_match, "logprob_per_answer": self.logprob}
        return {"item": range(len(self.top1))}, scores

    def summary(self) -> dict[str, str]:
        """See `Artefact.summary`."""
        rows = {
            r.condition: f"top-1 {r.top1}, exact match {r.exact_match.mean:.2f}, "
            f"log-prob per answer {r.logprob_per_answer.mean:.2f} nats"
            for r in self.results
        }
        items = {"test items": str(len(self.top1))} | queries_summary(self.provenance)
        return super().summary() | {"prompts": self.prompts} | items | rows


class TextResult(NamedTuple):
    """Scores of one condition on the test split.

    Attributes:
        condition: "none", "k_shot" or a vector's name.
        rouge_l: Mean ROUGE-L over items, with its bootstrap interval.
        exact_match: Share of items with a text identical to an acceptable answer, with Wilson's interval.
    """

    condition: str
    rouge_l: Estimate
    exact_match: Estimate


@checked
@dataclass(frozen=True, repr=False, eq=False)
class TextEvaluation(ConditionScores[TextResult]):
    """Generated text of every test item in every condition, with its similarity to the acceptable answers.

    Attributes:
        inputs: Inputs of the items.
        texts: Answers by item and condition, without surrounding whitespace.
        rouge_l: ROUGE-L of each text; see `rouge_l`.
        exact: Whether the text is an acceptable answer.
    """

    inputs: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    rouge_l: Float[Tensor, "items conditions"]
    exact: Bool[Tensor, "items conditions"]

    def __getitem__(self, condition: str) -> TextResult:
        """See `ConditionScores`."""
        i = self.column(condition)
        rouge = estimate(self.rouge_l[:, i].tolist(), seed=self.provenance.seed)
        return TextResult(condition, rouge, proportion(int(self.exact[:, i].sum()), len(self.exact)))

    def item_scores(self) -> tuple[Mapping[str, Sequence[object]], Scores]:
        """See `ConditionScores`."""
        return {"input": self.inputs}, {"text": self.texts, "rouge_l": self.rouge_l, "exact_match": self.exact}

    def summary(self) -> dict[str, str]:
        """See `Artefact.summary`."""
        rows = {r.condition: f"ROUGE-L {r.rouge_l}, exact match {r.exact_match}" for r in self.results}
        return super().summary() | {"test items": str(len(self.exact))} | rows


def item_table(
    items: Mapping[str, Sequence[object]], conditions: Sequence[str], scores: Scores, axis: str = "condition"
) -> DataFrame:
    """One row per item and condition: the columns of the item, the condition, and the scores by item and condition."""
    columns = {name: table.tolist() if isinstance(table, Tensor) else table for name, table in scores.items()}
    rows: list[dict[str, object]] = []
    for i in range(len(next(iter(items.values())))):
        item = {name: column[i] for name, column in items.items()}
        for j, condition in enumerate(conditions):
            rows.append({**item, axis: condition, **{name: table[i][j] for name, table in columns.items()}})
    return data_frame(rows)
