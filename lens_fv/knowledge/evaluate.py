"""What updates did: to what is known of their entities, and to everything else."""

import random
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from lens_fv.core.choices import Seed, checked
from lens_fv.core.display import summary_text
from lens_fv.core.progress import progress_bar
from lens_fv.core.statistics import Estimate, estimate
from lens_fv.errors import LensFVError
from lens_fv.knowledge.delta import WeightDelta
from lens_fv.knowledge.entity import Entity, Kind
from lens_fv.knowledge.kl import kl_to_base, true_sentences
from lens_fv.knowledge.measure import definitions, score_probes
from lens_fv.knowledge.scores import KnowledgeScores, Norm
from lens_fv.model.lens_model import LensModel


class KnowledgeResult(NamedTuple):
    """One condition.

    Attributes:
        condition: "base"; "definition": in context, what can be reached; "random_definition": another entity's in context; or
            the name of an update.
        scores: of the entities' probes.
        elsewhere: of unrelated probes; None where the weights are the base's.
        kl_to_base: KL from the base, in nats a token, on the unrelated probes' sentences, with its interval; None likewise.
    """

    condition: str
    scores: KnowledgeScores
    elsewhere: KnowledgeScores | None
    kl_to_base: Estimate | None

    def __repr__(self) -> str:
        return summary_text(f"KnowledgeResult: {self.condition}", self.summary())

    def summary(self) -> dict[str, str]:
        """What a reader wants to know first, label by label."""
        elsewhere = self.elsewhere.summary() if self.elsewhere else {}
        facts = self.scores.summary() | {f"{what}, elsewhere": said for what, said in elsewhere.items()}
        return facts | ({"KL to the base": f"{self.kl_to_base.mean:.3g} nats a token"} if self.kl_to_base else {})


@checked
def evaluate_knowledge(
    model: LensModel,
    entities: Sequence[Entity],
    updates: Mapping[str, WeightDelta],
    *,
    elsewhere: Sequence[Entity] = (),
    seed: Seed = 0,
    progress: bool = False,
) -> list[KnowledgeResult]:
    """Ask about entities without and with their definitions, and with each update; and about others, which it should not touch.

    Of one entity alone there is no "random_definition", which is another one's.

    Args:
        model: without any update.
        entities: with their probes and definitions.
        updates: by name.
        elsewhere: unrelated entities with probes, such as `load_entities("popular")`.
        seed: of the random definitions and of intervals.
        progress: draw a progress bar.

    Raises:
        LensFVError: what `score_probes` and `WeightDelta.applied` raise.
    """
    results: list[KnowledgeResult] = []
    with progress_bar("conditions", 2 + (len(entities) > 1) + len(updates), show=progress) as tick:
        contexts = {"base": {}, "definition": definitions(entities)}
        if len(entities) > 1:
            contexts["random_definition"] = random_definitions(entities, seed)
        for condition, context in contexts.items():
            others = score_probes(model, elsewhere) if elsewhere and condition == "base" else None
            results.append(KnowledgeResult(condition, score_probes(model, entities, context=context), others, None))
            tick()
        for condition, delta in updates.items():
            results.append(evaluate_update(model, entities, delta, elsewhere=elsewhere, condition=condition, seed=seed))
            tick()
    return results


@checked
def evaluate_update(
    model: LensModel,
    entities: Sequence[Entity],
    delta: WeightDelta,
    *,
    elsewhere: Sequence[Entity] = (),
    condition: str = "update",
    seed: Seed = 0,
) -> KnowledgeResult:
    """One update's part of `evaluate_knowledge`."""
    texts = true_sentences(elsewhere)
    moved = estimate(kl_to_base(model, delta, texts), seed=seed) if texts else None
    with delta.applied(model):
        others = score_probes(model, elsewhere) if elsewhere else None
        return KnowledgeResult(condition, score_probes(model, entities), others, moved)


@checked
def random_definitions(entities: Sequence[Entity], seed: Seed = 0) -> dict[str, str]:
    """For each entity the definition of another one, no definition twice: as context, or to be distilled, a control.

    Raises:
        LensFVError: there is only one entity.
    """
    if len(entities) < 2:
        raise LensFVError("give each entity another one's definition: there is only one entity")
    order = random.Random(seed).sample(range(len(entities)), len(entities))
    # around a circle in random order, so that nobody gets their own
    return {entities[a].key: entities[b].definition for a, b in zip(order, [*order[1:], order[0]], strict=True)}


@checked
def gap_closed(
    base: KnowledgeScores,
    updated: KnowledgeScores,
    read: KnowledgeScores,
    *,
    of: Literal["accuracy", "loss"] = "accuracy",
    norm: Norm = "mean",
    kind: Kind = "",
    seed: Seed = 0,
) -> Estimate | None:
    """Share of the way from the base to the model that reads the definition: 0 nothing, 1 all of it; means over entities.

    Args:
        base: without an update.
        updated: with it.
        read: with the definition in context.
        of: "accuracy", or "loss": of the answers' tokens.
        norm: see `KnowledgeScores.correct`.
        kind: of the probes; empty: of any.
        seed: of the bootstrap over entities.

    Returns:
        None where there is no gap: the definition does not help.
    """
    per: list[list[float]] = []
    for scores in (base, updated, read):
        values = scores.correct(norm=norm, kind=kind) if of == "accuracy" else scores.span_loss(kind=kind)
        per.append([float(np.mean(each)) for each in values.values()])
    b, u, r = (np.asarray(each) for each in per)
    if len(b) == 0 or (r.mean() > b.mean()) != (of == "accuracy") or r.mean() == b.mean():
        return None
    found = float((u.mean() - b.mean()) / (r.mean() - b.mean()))
    # Not SciPy's bootstrap: resamples without a gap have no share, and are left out.
    at = np.random.default_rng(seed).integers(len(b), size=(10_000, len(b)))
    gaps = r[at].mean(1) - b[at].mean(1)
    shares = (u[at].mean(1) - b[at].mean(1))[gaps != 0] / gaps[gaps != 0]
    low, high = np.percentile(shares, [2.5, 97.5])
    return Estimate(found, float(low), float(high), len(b))
