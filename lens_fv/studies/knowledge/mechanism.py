"""How the first update changes the model, and what definition vectors achieve without an update."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import product
from statistics import fmean

from lens_fv.dynamics import TaskProbe, Trajectory, make_task_probe, measure_checkpoint
from lens_fv.heads import rank_instruction_heads
from lens_fv.knowledge import (
    KnowledgeScores,
    at_mentions,
    causal_trace,
    definition_vectors,
    definitions,
    evaluate_update,
    random_definitions,
    score_probes,
    score_probes_by_branch,
)
from lens_fv.knowledge.trace import PLACES
from lens_fv.studies.knowledge.settings import ENTITIES, KnowledgeRun
from lens_fv.studies.knowledge.updates import first_update, result_rows, score_rows
from lens_fv.studies.rows import Job, Row, part
from lens_fv.tasks import load_task
from lens_fv.vectors import extract, sweep_injection

TUNING_LOGPROB = "tuning_logprob_per_token_nats"
"""Answers of the tuning entities, by the layer after which definition vectors are added."""


def epoch_jobs(run: KnowledgeRun) -> Iterator[Job]:
    """The first update after each measured epoch (jobs EPOCH/CONDITION), and what it does to vectors of unrelated tasks."""
    seed = run.settings.seeds[0]
    yield Job("epochs", "0/base", lambda: score_rows("base", score_probes(run.model, run.first_group)), seed)
    for n in run.settings.measured_epochs:
        yield Job("epochs", f"{n}/distillation", partial(_epoch_rows, run, n), seed)
    yield Job("epochs", "tasks", partial(_task_rows, run), seed)


def _epoch_rows(run: KnowledgeRun, n: int) -> Iterator[Row]:
    """What the first update teaches and changes, and how far it moves the weights of each layer and all others."""
    delta = first_update(run, n)
    result = evaluate_update(run.model, run.first_group, delta, locality=run.locality, condition="distillation")
    yield from result_rows(result)
    *layers, others = (100 * change for change in delta.by_layer(run.model).values())
    yield Row("all", "distillation", "weight_change_percent", layers)
    yield Row("all", "distillation", "weight_change_percent/others", others)


def _task_rows(run: KnowledgeRun) -> Iterator[Row]:
    """Accuracy of unrelated tasks, and cosines of their vectors and heads to the start, at each measured epoch.

    All measurements are saved as FOLDER/trajectory.safetensors.
    """
    probes, measurements = [_task_probe(run, name) for name in run.settings.tasks], []
    for n in (0, *run.settings.measured_epochs):
        with first_update(run, n).applied(run.model) if n else nullcontext():
            measurements.append(measure_checkpoint(run.model, probes, name=str(n), step=n, all_measures=False))
    trajectory = Trajectory.of(measurements)
    trajectory.save(run.folder / "trajectory.safetensors")
    heads, other_heads = trajectory.head_similarity()
    measures = {
        "exact_match": trajectory.accuracy,
        "vector_cosine": trajectory.similarity(),
        "head_cosine": heads.mean(-1),
        "other_head_cosine": other_heads.mean(-1),
    }
    for measure, values in measures.items():
        for task, by_epoch in zip(trajectory.tasks, values.T.tolist(), strict=True):
            yield Row(task, "distillation", measure, by_epoch)


def _task_probe(run: KnowledgeRun, name: str) -> TaskProbe:
    """Build a probe of an unrelated task with its instruction vector; the head ranking is cached."""
    model, task, seed, shots = run.model, load_task(name), run.settings.seeds[0], run.settings.n_shots
    ranking = rank_instruction_heads(
        model, task, counterpart="none", n_shots=shots, n_clean=20, n_trials=6, seed=seed, folder=run.folder / "rankings"
    )
    vector = extract(model, task, ranking, n_heads=run.settings.n_heads)
    vector = sweep_injection(model, task, vector, scales=(1.0, 2.0), max_items=20).best_vector(vector)
    return make_task_probe(model, task, vector, n_shots=shots, seed=seed)


@part(lambda run: product(run.settings.seeds[:1], ("base", "distillation", "definition_in_context")))
def traces(run: KnowledgeRun, seed: int, condition: str) -> Iterator[Row]:  # noqa: ARG001
    """Trace the first explicit probe of each traced entity, and save the trace as FOLDER/trace-CONDITION.safetensors.

    There is a trace without the update, one with it, and one with the definition in context. The rows hold each probe's
    log-probabilities and indirect effects by layer, and mean effects with heads as units.
    """
    entities = [
        replace(entity, probes=tuple(probe for probe in entity.probes if probe.kind == "explicit")[:1])
        for entity in run.sources[ENTITIES][: run.settings.n_traced]
    ]
    context = definitions(entities) if condition == "definition_in_context" else None
    update = first_update(run, run.settings.measured_epochs[-1]) if condition == "distillation" else None
    with update.applied(run.model) if update else nullcontext():
        trace = causal_trace(run.model, entities, context=context, progress=run.progress)
    trace.save(run.folder / f"trace-{condition}.safetensors")
    for i, entity in enumerate(trace.entities):
        yield Row(entity, condition, "logprob_per_answer_nats/clean", float(trace.clean[i]))
        yield Row(entity, condition, "logprob_per_answer_nats/noisy", float(trace.noisy[i]))
        for p, place in enumerate(PLACES):
            yield Row(entity, condition, f"residual_effect_nats/{place}", trace.layer_effects[i, p].tolist())
            yield Row(entity, condition, f"strongest_head_effect_nats/{place}", trace.head_effects[i, p].amax(-1).tolist())
    for place, effects in zip(PLACES, trace.head_effects.mean(0).tolist(), strict=True):
        for layer, heads in enumerate(effects):
            for head, effect in enumerate(heads):
                yield Row(f"{layer}.{head}", condition, f"head_effect_nats/{place}", effect, len(trace.entities))


@part(lambda run: [(run.settings.seeds[0], "vectors")])
def vectors(run: KnowledgeRun, seed: int, name: str) -> Iterator[Row]:  # noqa: ARG001
    """Answers with definition vectors: of each tuning probe by layer, and of the reported entities at the best layer."""
    model, entities = run.model, run.sources[ENTITIES]
    tuning = [
        replace(entity, probes=tuple(replace(probe, candidates=()) for probe in entity.probes))
        for entity in run.tuning_entities
    ]
    added = definition_vectors(model, tuning)
    edits = [[at_mentions(model, tuning, added, layer)] for layer in range(model.n_layers)]
    *by_layer, without = map(_logprobs, score_probes_by_branch(model, tuning, [*edits, ()]))
    names = [f"{entity.key}/{i}" for i, entity in enumerate(entity for entity in tuning for _ in entity.probes)]
    for name, values in zip(names, zip(*by_layer, strict=True), strict=True):
        yield Row(name, "definition_vector", TUNING_LOGPROB, values)
    for name, value in zip(names, without, strict=True):
        yield Row(name, "base", TUNING_LOGPROB, [value] * model.n_layers)
    best = max(range(model.n_layers), key=lambda layer: fmean(by_layer[layer]))
    yield Row("all", "definition_vector", "best_layer", float(best))
    texts = {"definition_vector": definitions(entities), "other_definition_vector": random_definitions(entities)}
    for condition, context in texts.items():
        edit = at_mentions(model, entities, definition_vectors(model, entities, context=context), best)
        yield from score_rows(condition, score_probes_by_branch(model, entities, [[edit]])[0])


def _logprobs(scores: KnowledgeScores) -> list[float]:
    """Log-probability per token of each probe's answer."""
    return [-loss for losses in scores.span_loss().values() for loss in losses]
