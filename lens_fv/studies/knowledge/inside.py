"""Internal analyses: how an update changes the model, and what definition vectors do without an update."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from statistics import fmean
from typing import Any

from lens_fv.core.progress import progress_bar
from lens_fv.dynamics import CheckpointMeasurement, TaskProbe, Trajectory, make_task_probe, measure_checkpoint
from lens_fv.heads import rank_instruction_heads
from lens_fv.knowledge import (
    Entity,
    KnowledgeScores,
    WeightDelta,
    at_mentions,
    causal_trace,
    definition_vectors,
    definitions,
    evaluate_update,
    random_definitions,
    score_probes_by_branch,
)
from lens_fv.knowledge.trace import KnowledgeTrace
from lens_fv.studies.knowledge.settings import OWN, Study
from lens_fv.studies.knowledge.teaching import first_update, said
from lens_fv.tasks import load_task
from lens_fv.vectors import extract_instruction, sweep_injection


def follow_update(study: Study) -> None:
    """Measure the model at several epochs of the first update, and save FOLDER/trajectory.safetensors.

    Each number of epochs has a record with the knowledge scores and the change of every layer.
    """
    records, s, file = study.records("steps"), study.settings, study.folder / "trajectory.safetensors"
    if file.is_file():
        return
    entities = study.first_few
    probes = [_probe(study, name, s.seeds[0]) for name in s.tasks]
    moments = [_moment(study, probes, None, 0)]
    with progress_bar("the way of an update", len(s.looked_at), show=study.progress) as tick:
        for n in s.looked_at:
            delta = first_update(study, n)
            records.get_or_compute(str(n), lambda d=delta, n=n: _known(study, entities, d, f"{n} epochs"))
            moments.append(_moment(study, probes, delta, n))
            tick()
    Trajectory.of(moments).save(file)


def trace_update(study: Study) -> None:
    """Trace knowledge without the update, with it, and with the definition in context; see `KnowledgeTrace`."""
    few = [_one_probe(entity) for entity in study.sources[OWN][: study.settings.n_traced]]
    delta = first_update(study, study.settings.ways["distill"][1].epochs)

    def updated() -> KnowledgeTrace:
        with delta.applied(study.model):
            return causal_trace(study.model, few, progress=study.progress)

    makes: dict[str, Callable[[], KnowledgeTrace]] = {
        "base": lambda: causal_trace(study.model, few, progress=study.progress),
        "updated": updated,
        "definition": lambda: causal_trace(study.model, few, context=definitions(few), progress=study.progress),
    }
    for name, make in makes.items():
        file = study.folder / f"trace-{name}.safetensors"
        if not file.is_file():
            make().save(file)


def inject_definitions(study: Study) -> None:
    """Add definition vectors: at every layer for the tuning entities, and at the best layer for the reported ones."""
    records, model = study.records("vectors"), study.model
    chosen, entities = study.chosen_by, study.sources[OWN]
    scores = cache(partial(_at_every_layer, study, chosen))
    tried = [
        records.get_or_compute(f"chosen/{layer}", lambda layer=layer: scores()[layer].rows()) for layer in range(model.n_layers)
    ]
    records.get_or_compute("chosen/none", lambda: scores()[-1].rows())
    best = max(range(model.n_layers), key=lambda layer: fmean(answer_logprobs(tried[layer])))
    for whose, context in (("own", definitions(entities)), ("another's", random_definitions(entities))):
        records.get_or_compute(f"reported/{whose}", partial(_with_vectors, study, entities, best, context))
    records.get_or_compute("layer", lambda: best)


def answer_logprobs(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the log-probability per token of each probe's answer, in nats, from probes scored without other candidates."""
    return [row["logprobs"][0] / row["lengths"][0] for row in rows]


def _at_every_layer(study: Study, entities: Sequence[Entity]) -> list[KnowledgeScores]:
    """Score the answers alone with definition vectors added after each layer, and last without vectors."""
    asked, vectors = _answers_only(entities), definition_vectors(study.model, entities)
    added = [[at_mentions(study.model, asked, vectors, layer)] for layer in range(study.model.n_layers)]
    return score_probes_by_branch(study.model, asked, [*added, ()])


def _with_vectors(study: Study, entities: Sequence[Entity], layer: int, context: Mapping[str, str]) -> list[dict[str, Any]]:
    vectors = definition_vectors(study.model, entities, context=context)
    return score_probes_by_branch(study.model, entities, [[at_mentions(study.model, entities, vectors, layer)]])[0].rows()


def _answers_only(entities: Sequence[Entity]) -> list[Entity]:
    """Return the same probes without other candidates."""
    return [replace(e, probes=tuple(replace(p, candidates=()) for p in e.probes)) for e in entities]


def _one_probe(entity: Entity) -> Entity:
    return replace(entity, probes=tuple(probe for probe in entity.probes if probe.kind == "explicit")[:1])


def _known(study: Study, entities: tuple[Entity, ...], delta: WeightDelta, condition: str) -> dict[str, Any]:
    result = evaluate_update(study.model, entities, delta, locality=study.locality, condition=condition)
    return said(result) | {"moved": delta.by_layer(study.model)}


def _moment(study: Study, probes: list[TaskProbe], delta: WeightDelta | None, epochs: int) -> CheckpointMeasurement:
    measure = partial(measure_checkpoint, study.model, probes, name=str(epochs), step=epochs, full=False)
    if delta is None:
        return measure()
    with delta.applied(study.model):
        return measure()


def _probe(study: Study, name: str, seed: int) -> TaskProbe:
    """Build a probe of a task unrelated to the update, with its instruction vector; the head ranking is cached."""
    model, task, shots, n_heads = study.model, load_task(name), study.settings.n_shots, study.settings.n_heads
    ranking = rank_instruction_heads(
        model, task, counterpart="none", n_shots=shots, n_clean=20, n_trials=6, seed=seed, folder=study.folder / "rankings"
    )
    vector = extract_instruction(model, task, ranking, n_heads=n_heads)
    best = sweep_injection(model, task, vector, scales=(1.0, 2.0), max_items=20).best("logprob")
    return make_task_probe(model, task, vector.at(layer=best.layer, scale=best.scale), n_shots=shots, seed=seed)
