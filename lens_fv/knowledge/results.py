"""Results of knowledge updates by condition, and the share of the gap to the definition in context that an update closes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

from lens_fv.core.choices import Seed, checked
from lens_fv.core.json_files import validated
from lens_fv.core.results import Record, Records
from lens_fv.core.statistics import Estimate
from lens_fv.errors import LensFVError
from lens_fv.knowledge.entity import Kind
from lens_fv.knowledge.scores import KnowledgeScores, Norm


@dataclass(frozen=True, repr=False)
class KnowledgeResult(Record):
    """Results for one condition.

    Attributes:
        condition: "base"; "definition": the entity's definition in context, an upper bound; "random_definition": another
            entity's definition in context; or the name of an update.
        scores: Scores on the entities' probes.
        locality: Scores on unrelated probes; None where the weights are the base model's.
        kl_to_base: KL divergence from the base with its interval, in nats per token, on the sentences of the unrelated probes;
            None where the weights are the base model's.
    """

    condition: str
    scores: KnowledgeScores
    locality: KnowledgeScores | None
    kl_to_base: Estimate | None

    def records(self) -> list[Mapping[str, Any]]:
        """One row: accuracies (see `KnowledgeScores.correct`), perplexities and the divergence, averaged over entities."""
        scores, locality = self.scores, self.locality
        return [
            {
                "condition": self.condition,
                "accuracy": scores.accuracy(),
                "explicit_accuracy": scores.accuracy(kind="explicit"),
                "inferential_accuracy": scores.accuracy(kind="inferential"),
                "perplexity": scores.perplexity(),
                "locality_accuracy": locality and locality.accuracy(),
                "locality_perplexity": locality and locality.perplexity(),
                "kl_to_base_nats_per_token": self.kl_to_base,
            }
        ]

    def summary(self) -> dict[str, str]:
        """Return the key results by label."""
        facts = {"condition": self.condition, **self.scores.summary()}
        if self.locality:
            facts |= {f"{label}, locality set": value for label, value in self.locality.summary().items()}
        if self.kl_to_base:
            facts["KL to the base"] = f"{self.kl_to_base.mean:.3g} nats per token"
        return facts

    def to_json(self) -> Any:
        """The condition, the rows of both scores, and the divergence."""
        return {
            "condition": self.condition,
            "scores": self.scores.to_json(),
            "locality": self.locality and self.locality.to_json(),
            "kl_to_base": self.kl_to_base and self.kl_to_base._asdict(),
        }

    @classmethod
    def from_json(cls, values: Any, context: str) -> "KnowledgeResult":
        """The result that `to_json` wrote."""
        values = validated(values, dict[str, Any], context)
        if values.keys() != {field.name for field in fields(cls)}:
            raise LensFVError(f"{context}: the fields of a KnowledgeResult were expected; make it again")
        locality = values["locality"]
        return cls(
            condition=validated(values["condition"], str, context),
            scores=KnowledgeScores.from_json(values["scores"], context),
            locality=None if locality is None else KnowledgeScores.from_json(locality, context),
            kl_to_base=validated(values["kl_to_base"], Estimate | None, context),
        )


class KnowledgeResults(Records[KnowledgeResult]):
    """The results of `evaluate_knowledge`, one per condition."""

    row = KnowledgeResult

    def summary(self) -> dict[str, str]:
        """One line per condition."""
        facts: dict[str, str] = {}
        for result in self:
            labels = result.summary()
            facts[labels.pop("condition")] = ", ".join(f"{label} {value}" for label, value in labels.items())
        return facts


@checked
def gap_closed(
    base: KnowledgeScores,
    updated: KnowledgeScores,
    in_context: KnowledgeScores,
    *,
    of: Literal["accuracy", "loss"] = "accuracy",
    norm: Norm = "mean",
    kind: Kind = "",
    seed: Seed = 0,
) -> Estimate | None:
    """Compute the share of the gap between the base and the model with the definition in context that an update closes.

    It is 0 if the update changes nothing and 1 if it closes the whole gap. Scores are averaged over entities.

    Args:
        base: Scores without the update.
        updated: Scores with the update.
        in_context: Scores with the definition in context.
        of: "accuracy", or "loss" of the answers' tokens.
        norm: See `KnowledgeScores.correct`.
        kind: Kind of probes to use; empty: all.
        seed: Seed of the bootstrap over entities.

    Returns:
        The estimate, or None if the definition does not help and so leaves no gap.

    Example:
        >>> base = lens_fv.knowledge.score_probes(model, entities)
        >>> in_context = lens_fv.knowledge.score_probes(model, entities, context=lens_fv.knowledge.definitions(entities))
        >>> print(lens_fv.knowledge.gap_closed(base, base, in_context))  # the definitions do not help this random model
        None
    """

    def entity_means(scores: KnowledgeScores) -> list[float]:
        if of == "accuracy":
            return [float(np.mean(values)) for values in scores.correct(norm=norm, kind=kind).values()]
        return [-float(np.mean(values)) for values in scores.span_loss(kind=kind).values()]

    return share_of_gap(entity_means(base), entity_means(updated), entity_means(in_context), seed=seed)


@checked
def share_of_gap(
    base: Sequence[float], updated: Sequence[float], in_context: Sequence[float], *, seed: Seed = 0
) -> Estimate | None:
    """Compute `gap_closed` from one value per entity and condition, of a measure that is better if higher."""
    before, after, upper = (np.asarray(values) for values in (base, updated, in_context))
    if len(before) == 0 or upper.mean() <= before.mean():
        return None
    share = float((after.mean() - before.mean()) / (upper.mean() - before.mean()))
    # Not SciPy's bootstrap: the share is undefined for resamples without a gap, so they are dropped.
    resamples = np.random.default_rng(seed).integers(len(before), size=(10_000, len(before)))
    baseline = before[resamples].mean(1)
    gaps, gains = upper[resamples].mean(1) - baseline, after[resamples].mean(1) - baseline
    low, high = np.percentile(gains[gaps != 0] / gaps[gaps != 0], [2.5, 97.5])
    return Estimate(share, float(low), float(high), len(before))
