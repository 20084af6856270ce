"""How the first update changes the model, and what definition vectors achieve without an update."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from statistics import fmean

from lens_fv.dynamics import TaskProbe, Trajectory, make_task_probe, measure_checkpoint
from lens_fv.heads import rank_instruction_heads
from lens_fv.knowledge import (
    KnowledgeScores,
    KnowledgeTrace,
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
from lens_fv.studies.rows import Job, Row
from lens_fv.tasks import load_task
from lens_fv.vectors import extract_instruction, sweep_injection

TRACED = ("base", "distillation", "definition_in_context")
TUNING_LOGPROB = "tuning_logprob_per_token_nats"
"""Answers of the tuning entities, by the layer after which definition vectors are added."""


def epoch_jobs(run: KnowledgeRun) -> Iterator[Job]:
    """The first update after each measured epoch (jobs EPOCH/CONDITION), and what it does to vectors of unrelated tasks."""
    seed = run.settings.seeds[0]
    yield Job("epochs", "0/base", lambda: score_rows("base", score_probes(run.model, run.first_group)), seed)
    for n in run.settings.measured_epochs:
        yield Job("epochs", f"{n}/distillation", partial(_epoch_rows, run, n), seed)
    yield Job("epochs", "tasks", lambda: task_rows(_trajectory(run)), seed)


def trace_jobs(run: KnowledgeRun) -> Iterator[Job]:
    """Causal traces without the update, with it, and with the definition in context, saved as FOLDER/trace-CONDITION."""
    for condition in TRACED:
        yield Job("traces", condition, partial(_traced_rows, run, condition), run.settings.seeds[0])


def vector_jobs(run: KnowledgeRun) -> Iterator[Job]:
    """Definition vectors, added at every layer for the tuning entities and at the best layer for the reported ones."""
    yield Job("vectors", "vectors", partial(_vector_rows, run), run.settings.seeds[0])


def change_rows(by_layer: dict[str, float]) -> Iterator[Row]:
    """Change of the weights of each layer, and of all others, in percent of their norm, from `WeightDelta.by_layer`."""
    layers = [100 * change for layer, change in by_layer.items() if layer != "others"]
    yield Row("all", "distillation", "weight_change_percent", layers)
    yield Row("all", "distillation", "weight_change_percent/others", 100 * by_layer["others"])


def task_rows(trajectory: Trajectory) -> Iterator[Row]:
    """Accuracy of unrelated tasks, and cosines of their vectors and heads to the start, at each measured epoch."""
    own, other = trajectory.head_similarity()
    measures = {
        "exact_match": trajectory.accuracy,
        "vector_cosine": trajectory.similarity(),
        "head_cosine": own.mean(-1),
        "other_head_cosine": other.mean(-1),
    }
    for measure, values in measures.items():
        for task, by_epoch in zip(trajectory.tasks, values.T.tolist(), strict=True):
            yield Row(task, "distillation", measure, by_epoch)


def trace_rows(trace: KnowledgeTrace, condition: str) -> Iterator[Row]:
    """Each probe's log-probability and indirect effects by layer, and the mean effects of heads, with heads as units."""
    for i, entity in enumerate(trace.entities):
        yield Row(entity, condition, "logprob_per_answer_nats/clean", float(trace.clean[i]))
        yield Row(entity, condition, "logprob_per_answer_nats/noisy", float(trace.noisy[i]))
        for at, place in enumerate(PLACES):
            yield Row(entity, condition, f"residual_effect_nats/{place}", trace.layer_effects[i, at].tolist())
            yield Row(entity, condition, f"strongest_head_effect_nats/{place}", trace.head_effects[i, at].amax(-1).tolist())
    for place, effects in zip(PLACES, trace.head_effects.mean(0), strict=True):
        for layer, heads in enumerate(effects.tolist()):
            for head, effect in enumerate(heads):
                yield Row(f"{layer}.{head}", condition, f"head_effect_nats/{place}", effect, len(trace.entities))


def layer_rows(by_layer: list[KnowledgeScores], without: KnowledgeScores) -> Iterator[Row]:
    """Log-probability of each tuning probe's answer with vectors added after each layer, and without vectors."""
    names = [f"{entity}/{i}" for i, entity in enumerate(without.entities)]
    for name, values in zip(names, zip(*map(_logprobs, by_layer), strict=True), strict=True):
        yield Row(name, "definition_vector", TUNING_LOGPROB, values)
    for name, value in zip(names, _logprobs(without), strict=True):
        yield Row(name, "base", TUNING_LOGPROB, [value] * len(by_layer))


def _epoch_rows(run: KnowledgeRun, n: int) -> Iterator[Row]:
    delta = first_update(run, n)
    yield from result_rows(evaluate_update(run.model, run.first_group, delta, locality=run.locality, condition="distillation"))
    yield from change_rows(delta.by_layer(run.model))


def _trajectory(run: KnowledgeRun) -> Trajectory:
    """Measure unrelated tasks without the update and after each measured epoch, and save FOLDER/trajectory.safetensors."""
    probes, measurements = [_task_probe(run, name) for name in run.settings.tasks], []
    for n in (0, *run.settings.measured_epochs):
        with first_update(run, n).applied(run.model) if n else nullcontext():
            measurements.append(measure_checkpoint(run.model, probes, name=str(n), step=n, full=False))
    trajectory = Trajectory.of(measurements)
    trajectory.save(run.folder / "trajectory.safetensors")
    return trajectory


def _task_probe(run: KnowledgeRun, name: str) -> TaskProbe:
    """Build a probe of an unrelated task with its instruction vector; the head ranking is cached."""
    model, task, seed, shots = run.model, load_task(name), run.settings.seeds[0], run.settings.n_shots
    ranking = rank_instruction_heads(
        model, task, counterpart="none", n_shots=shots, n_clean=20, n_trials=6, seed=seed, folder=run.folder / "rankings"
    )
    vector = extract_instruction(model, task, ranking, n_heads=run.settings.n_heads)
    best = sweep_injection(model, task, vector, scales=(1.0, 2.0), max_items=20).best("logprob")
    return make_task_probe(model, task, vector.at(layer=best.layer, scale=best.scale), n_shots=shots, seed=seed)


def _traced_rows(run: KnowledgeRun, condition: str) -> Iterator[Row]:
    """Trace the first explicit probe of each traced entity."""
    entities = [
        replace(entity, probes=tuple(probe for probe in entity.probes if probe.kind == "explicit")[:1])
        for entity in run.sources[ENTITIES][: run.settings.n_traced]
    ]
    context = definitions(entities) if condition == "definition_in_context" else None
    update = first_update(run, run.settings.measured_epochs[-1]) if condition == "distillation" else None
    with update.applied(run.model) if update else nullcontext():
        trace = causal_trace(run.model, entities, context=context, progress=run.progress)
    trace.save(run.folder / f"trace-{condition}.safetensors")
    yield from trace_rows(trace, condition)


def _vector_rows(run: KnowledgeRun) -> Iterator[Row]:
    model, entities = run.model, run.sources[ENTITIES]
    tuning = [
        replace(entity, probes=tuple(replace(probe, candidates=()) for probe in entity.probes))
        for entity in run.tuning_entities
    ]
    vectors = definition_vectors(model, tuning)
    edits = [[at_mentions(model, tuning, vectors, layer)] for layer in range(model.n_layers)]
    *by_layer, without = score_probes_by_branch(model, tuning, [*edits, ()])
    yield from layer_rows(by_layer, without)
    best = max(range(model.n_layers), key=lambda layer: fmean(_logprobs(by_layer[layer])))
    yield Row("all", "definition_vector", "best_layer", float(best))
    texts = {"definition_vector": definitions(entities), "other_definition_vector": random_definitions(entities)}
    for condition, context in texts.items():
        edit = at_mentions(model, entities, definition_vectors(model, entities, context=context), best)
        yield from score_rows(condition, score_probes_by_branch(model, entities, [[edit]])[0])


def _logprobs(scores: KnowledgeScores) -> list[float]:
    """Log-probability per token of each probe's answer."""
    return [-loss for losses in scores.span_loss().values() for loss in losses]
