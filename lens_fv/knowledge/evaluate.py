"""Evaluate knowledge updates: what the model learned about their entities, and what else changed."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

from lens_fv.core.choices import Seed, checked
from lens_fv.core.json_files import validated
from lens_fv.core.progress import progress_bar
from lens_fv.core.results import Record, Records
from lens_fv.core.statistics import Estimate, estimate
from lens_fv.errors import LensFVError
from lens_fv.knowledge.delta import WeightDelta
from lens_fv.knowledge.entity import Entity, Kind
from lens_fv.knowledge.kl import kl_to_base, true_sentences
from lens_fv.knowledge.measure import definitions, score_probes
from lens_fv.knowledge.scores import KnowledgeScores, Norm
from lens_fv.model.lens_model import LensModel


@dataclass(frozen=True, repr=False)
class KnowledgeResult(Record):
    """Results for one condition.

    Attributes:
        condition: "base"; "definition": the entity's definition in context, an upper bound; "random_definition": another
            entity's definition in context; or the name of an update.
        scores: scores on the entities' probes.
        locality: scores on unrelated probes; None where the weights are the base model's.
        kl_to_base: KL divergence from the base with its interval, in nats per token, on the sentences of the unrelated probes;
            None where the weights are the base model's.
    """

    condition: str
    scores: KnowledgeScores
    locality: KnowledgeScores | None
    kl_to_base: Estimate | None

    def records(self, *, norm: Norm = "mean", seed: Seed = 0) -> list[Mapping[str, Any]]:
        """One row: accuracies (see `KnowledgeScores.correct`), perplexities and the divergence, averaged over entities."""
        scores, others = self.scores, self.locality
        return [
            {
                "condition": self.condition,
                "accuracy": scores.accuracy(norm=norm, seed=seed),
                "explicit_accuracy": scores.accuracy(norm=norm, kind="explicit", seed=seed),
                "inferential_accuracy": scores.accuracy(norm=norm, kind="inferential", seed=seed),
                "perplexity": scores.perplexity(seed=seed),
                "locality_accuracy": others and others.accuracy(norm=norm, seed=seed),
                "locality_perplexity": others and others.perplexity(seed=seed),
                "kl_to_base_nats_per_token": self.kl_to_base,
            }
        ]

    def summary(self) -> dict[str, str]:
        """Return the key results by label."""
        locality = self.locality.summary() if self.locality else {}
        facts = self.scores.summary() | {f"{what}, locality set": said for what, said in locality.items()}
        kl = {"KL to the base": f"{self.kl_to_base.mean:.3g} nats per token"} if self.kl_to_base else {}
        return {"condition": self.condition} | facts | kl

    def to_json(self) -> Any:
        """The condition, the rows of both scores, and the divergence."""
        others = self.locality.to_json() if self.locality else None
        return {
            "condition": self.condition,
            "scores": self.scores.to_json(),
            "locality": others,
            "kl_to_base": self.kl_to_base and self.kl_to_base._asdict(),
        }

    @classmethod
    def from_json(cls, values: Any, context: str) -> "KnowledgeResult":
        """The result that `to_json` wrote."""
        found = validated(values, dict[str, Any], context)
        if found.keys() != {field.name for field in fields(cls)}:
            raise LensFVError(f"{context}: the fields of a KnowledgeResult were expected; make it again")
        others = found["locality"]
        return cls(
            validated(found["condition"], str, context),
            KnowledgeScores.from_json(found["scores"], context),
            None if others is None else KnowledgeScores.from_json(others, context),
            validated(found["kl_to_base"], Estimate | None, context),
        )


class KnowledgeResults(Records[KnowledgeResult]):
    """The results of `evaluate_knowledge`, one per condition."""

    row = KnowledgeResult

    def summary(self) -> dict[str, str]:
        """One line per condition."""
        return {r.condition: ", ".join(f"{k} {v}" for k, v in r.summary().items() if k != "condition") for r in self}


@checked
def evaluate_knowledge(
    model: LensModel,
    entities: Sequence[Entity],
    updates: Mapping[str, WeightDelta],
    *,
    locality: Sequence[Entity] = (),
    seed: Seed = 0,
    progress: bool = False,
) -> KnowledgeResults:
    """Score the probes without and with definitions in context and under each update, and unrelated probes as a control.

    The condition "random_definition" needs at least two entities.

    Args:
        model: model without any update.
        entities: entities with probes and definitions.
        updates: updates by name.
        locality: unrelated entities with probes, such as `load_entities("popular")`, to measure locality.
        seed: seed of the random definitions and of the bootstrap intervals.
        progress: whether to show a progress bar.

    Raises:
        LensFVError: see `score_probes` and `WeightDelta.applied`.

    Example:
        >>> probe = lens_fv.knowledge.EntityProbe('Velm is in ___.', 'Norway', ('Norway', 'Spain'), 'explicit')
        >>> entities = [lens_fv.Entity('Velm', 'Velm is a city in Norway.', probes=(probe,))]
        >>> [result.condition for result in lens_fv.evaluate_knowledge(model, entities, {})]
        ['base', 'definition']
    """
    results: list[KnowledgeResult] = []
    with progress_bar("conditions", 2 + (len(entities) > 1) + len(updates), show=progress) as tick:
        contexts = {"base": {}, "definition": definitions(entities)}
        if len(entities) > 1:
            contexts["random_definition"] = random_definitions(entities, seed)
        for condition, context in contexts.items():
            others = score_probes(model, locality) if locality and condition == "base" else None
            results.append(KnowledgeResult(condition, score_probes(model, entities, context=context), others, None))
            tick()
        for condition, delta in updates.items():
            results.append(evaluate_update(model, entities, delta, locality=locality, condition=condition, seed=seed))
            tick()
    return KnowledgeResults(results)


@checked
def evaluate_update(
    model: LensModel,
    entities: Sequence[Entity],
    delta: WeightDelta,
    *,
    locality: Sequence[Entity] = (),
    condition: str = "update",
    seed: Seed = 0,
) -> KnowledgeResult:
    """Evaluate a single update as in `evaluate_knowledge`."""
    texts = true_sentences(locality)
    moved = estimate(kl_to_base(model, delta, texts), seed=seed) if texts else None
    with delta.applied(model):
        others = score_probes(model, locality) if locality else None
        return KnowledgeResult(condition, score_probes(model, entities), others, moved)


@checked
def random_definitions(entities: Sequence[Entity], seed: Seed = 0) -> dict[str, str]:
    """Assign each entity another entity's definition, each used once: a control, in context or for distillation.

    Raises:
        LensFVError: fewer than two entities.
    """
    if len(entities) < 2:
        raise LensFVError("give each entity another one's definition: there is only one entity")
    order = random.Random(seed).sample(range(len(entities)), len(entities))
    # a random cyclic permutation, so that no entity gets its own definition
    return {entities[a].key: entities[b].definition for a, b in zip(order, [*order[1:], order[0]], strict=True)}


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
        base: scores without the update.
        updated: scores with the update.
        in_context: scores with the definition in context.
        of: "accuracy", or "loss" of the answers' tokens.
        norm: see `KnowledgeScores.correct`.
        kind: kind of probes to use; empty: all.
        seed: seed of the bootstrap over entities.

    Returns:
        The estimate, or None if the definition does not help and so leaves no gap.
    """
    sign, per = 1 if of == "accuracy" else -1, []
    for scores in (base, updated, in_context):
        values = scores.correct(norm=norm, kind=kind) if of == "accuracy" else scores.span_loss(kind=kind)
        per.append([sign * float(np.mean(each)) for each in values.values()])
    return share_of_gap(*per, seed=seed)


@checked
def share_of_gap(
    base: Sequence[float], updated: Sequence[float], in_context: Sequence[float], *, seed: Seed = 0
) -> Estimate | None:
    """Compute `gap_closed` from one value per entity and condition, of a measure that is better if higher."""
    b, u, r = (np.asarray(values) for values in (base, updated, in_context))
    if len(b) == 0 or r.mean() <= b.mean():
        return None
    share = float((u.mean() - b.mean()) / (r.mean() - b.mean()))
    # Not SciPy's bootstrap: the share is undefined for resamples without a gap, so they are dropped.
    at = np.random.default_rng(seed).integers(len(b), size=(10_000, len(b)))
    gaps = r[at].mean(1) - b[at].mean(1)
    shares = (u[at].mean(1) - b[at].mean(1))[gaps != 0] / gaps[gaps != 0]
    low, high = np.percentile(shares, [2.5, 97.5])
    return Estimate(share, float(low), float(high), len(b))
