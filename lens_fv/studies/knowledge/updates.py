"""Updates by every method: how they are made, and the rows of what each teaches and changes."""

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lens_fv.core.files import file_lock
from lens_fv.knowledge import (
    Entity,
    KnowledgeResult,
    KnowledgeScores,
    TransferSet,
    WeightDelta,
    distill,
    entity_swapped_anchors,
    evaluate_knowledge,
    evaluate_update,
    finetune_on_texts,
    random_definitions,
)
from lens_fv.knowledge.entity import Kind
from lens_fv.studies.knowledge.settings import ENTITIES, SIZES, KnowledgeRun
from lens_fv.studies.rows import Job, Row

CONTROLS: Mapping[str, tuple[str, Mapping[str, int]]] = {
    "distillation_unanchored": ("distillation", {"n_anchors": 0}),
    "finetuning_definition_anchored": ("finetuning_definition_gentle", {}),
    "distillation_swapped_sentences": ("distillation", {"n_definitions": 0, "n_shared": 0}),
    "distillation_wrong_definition": ("distillation", {"n_definitions": 0}),
}
"""Controls, each with its recipe and the changes to it; run on the study's own entities, with the first seed.

The last two add no definitions to the sentences, since a correct one would state the facts. With swapped sentences none are
shared either, since an entity could get its own back.
"""
JOINT = ("distillation", "finetuning_definition")
"""Methods used for growing numbers of entities; a single entity is taught by every recipe."""
CHECKPOINTS = 2
"""Number of checkpoints of a distillation: one in the middle and one at the end."""
ACCURACY, LOGPROB, KL = "mc_accuracy", "logprob_per_token_nats", "kl_nats_per_token"
LOCALITY = "locality_"
"""Prefix of the measures on unrelated probes."""


def group_jobs(run: KnowledgeRun, part: str) -> Iterator[Job]:
    """The base model and every method on a part's entities, and the controls on the study's own; one job per update."""
    yield from _base_jobs(run, part)
    entities, n, seeds = run.sources[part], run.settings.entities_per_update, run.settings.seeds
    groups = [entities[i : i + n] for i in range(0, len(entities), n)]
    for seed in seeds:
        for method in run.settings.recipes:
            yield from _update_jobs(run, part, method, seed, n, groups)
    for control in CONTROLS if part == ENTITIES else ():
        yield from _update_jobs(run, part, control, seeds[0], n, groups)


def size_jobs(run: KnowledgeRun) -> Iterator[Job]:
    """Updates of one entity and of growing numbers of entities, with the first seed."""
    yield from _base_jobs(run, SIZES)
    entities, recipes = [entity for source in run.sources.values() for entity in source], run.settings.recipes
    for n in run.settings.update_sizes:
        if n <= len(entities):
            groups = [[entity] for entity in run.sources[ENTITIES]] if n == 1 else [entities[:n]]
            for method in [name for name in recipes if n == 1 or name in JOINT]:
                yield from _update_jobs(run, SIZES, method, run.settings.seeds[0], n, groups)


def make_update(
    run: KnowledgeRun, method: str, entities: Sequence[Entity], seed: int, folder: Path | None = None, **others: Any
) -> WeightDelta:
    """Teach the model about some entities.

    Args:
        run: The run.
        method: One of the recipes, or one of `CONTROLS`.
        entities: Entities to teach. Those without usable sentences are taught nothing; their probes are scored all the same.
        seed: Seed of the sentences, their order and the anchors.
        folder: Folder for the checkpoints of a distillation.
        **others: Arguments of `distill`.
    """
    recipe, changes = CONTROLS.get(method, (method, {}))
    single, joint = run.settings.recipes[recipe]
    config = replace(single if len(entities) == 1 else joint, seed=seed, n_checkpoints=CHECKPOINTS, **changes)
    if recipe.startswith("finetuning_definition"):
        definitions = TransferSet({entity.key: (entity.definition,) for entity in entities})
        n = config.epochs * config.n_anchors if method == "finetuning_definition_anchored" else 0
        anchors = entity_swapped_anchors(entities, definitions, n_per_sentence=n, seed=seed) if n else ()
        texts = list(definitions.sentences.values())
        return finetune_on_texts(run.model, entities, texts, config, anchors=anchors, allow_empty=True)
    sentences = _sentences(run, entities, seed, swapped=method == "distillation_swapped_sentences")
    if recipe == "finetuning_sentences":
        with_definitions = sentences.with_definitions(entities, n_copies=config.n_definitions).sentences
        texts = [with_definitions.get(entity.key, ()) for entity in entities]
        return finetune_on_texts(run.model, entities, texts, config, allow_empty=True)
    if method == "distillation_wrong_definition":
        wrong = random_definitions(run.sources[ENTITIES], seed)
        entities = [replace(entity, definition=wrong[entity.key]) for entity in entities]
    progress = run.progress and len(entities) > 1
    return distill(run.model, entities, sentences, config, folder=folder, allow_empty=True, progress=progress, **others)


def first_update(run: KnowledgeRun, epochs: int) -> WeightDelta:
    """The first distillation of several entities, as it is after a number of epochs.

    On the first call it is computed and saved for all measured epochs as FOLDER/updates/EPOCHS.safetensors.
    """
    folder = run.folder / "updates"
    with file_lock(folder):
        for n in run.settings.measured_epochs:
            if not (file := folder / f"{n}.safetensors").is_file():
                checkpoints, seed = folder / "unfinished", run.settings.seeds[0]
                make_update(run, "distillation", run.first_group, seed, checkpoints, stop_after_epochs=n).save(file)
        shutil.rmtree(folder / "unfinished", ignore_errors=True)
    return WeightDelta.load(folder / f"{epochs}.safetensors")


def score_rows(condition: str, scores: KnowledgeScores, prefix: str = "") -> Iterator[Row]:
    """Each entity's probes, as MEASURE/KIND; kinds are not told apart on unrelated probes, or if some have none."""
    kinds: list[Kind] = [""] if prefix or "" in scores.kinds else list(dict.fromkeys(scores.kinds))
    correct, losses = ([of(kind=kind) for kind in kinds] for of in (scores.correct, scores.span_loss))
    for entity in dict.fromkeys(scores.entities):
        for i, kind in enumerate(kinds):
            suffix = f"/{kind}" if kind else ""
            if entity in correct[i]:
                yield Row(entity, condition, f"{prefix}{ACCURACY}{suffix}", correct[i][entity])
            if entity in losses[i]:
                yield Row(entity, condition, f"{prefix}{LOGPROB}{suffix}", [-loss for loss in losses[i][entity]])


def result_rows(result: KnowledgeResult, skipped: Mapping[str, int] | None = None) -> Iterator[Row]:
    """What a condition knows, what else it changes, and what was left out of training."""
    condition = result.condition
    yield from score_rows(condition, result.scores)
    if result.locality:
        yield from score_rows(condition, result.locality, LOCALITY)
    if result.kl_to_base:
        mean, low, high, n = result.kl_to_base
        for name, value in {"": mean, "/ci_low": low, "/ci_high": high}.items():
            yield Row("all", condition, f"{LOCALITY}{KL}{name}", value, n)
    for reason, count in (skipped or {}).items():
        yield Row("all", condition, f"n_skipped/{reason}", float(count))


def chance_row(scores: KnowledgeScores) -> Row:
    """Chance accuracy on the probes."""
    return Row("all", "chance", ACCURACY, None if math.isnan(scores.chance) else scores.chance, len(scores.entities))


def _base_jobs(run: KnowledgeRun, part: str) -> Iterator[Job]:
    """The base model without and with definitions in context."""
    entities = run.sources[part]

    def rows() -> Iterator[Row]:
        results = evaluate_knowledge(run.model, entities, {}, locality=run.locality, progress=run.progress)
        yield chance_row(results[0].scores)
        for result in results:
            name = result.condition
            yield from result_rows(replace(result, condition=name if name == "base" else f"{name}_in_context"))

    if entities:
        yield Job(part, "base", rows, run.settings.seeds[0])


def _update_jobs(
    run: KnowledgeRun, part: str, method: str, seed: int, n: int, groups: Sequence[Sequence[Entity]]
) -> Iterator[Job]:
    """One job for each update; its name is SIZE/METHOD/INDEX."""
    for i, entities in enumerate(groups):
        yield Job(part, f"{n}/{method}/{i}", partial(_update_rows, run, part, method, seed, i, entities), seed)


def _update_rows(run: KnowledgeRun, part: str, method: str, seed: int, i: int, entities: Sequence[Entity]) -> Iterator[Row]:
    """Make an update and evaluate it. A distillation of several entities that was stopped resumes from its last checkpoint."""
    folder, step = run.folder / f"unfinished-{part}-{len(entities)}-{method}-{seed}-{i}", run.settings.locality_stride
    single = len(entities) == 1
    if (part, method, seed, i) == (ENTITIES, "distillation", run.settings.seeds[0], 0):
        delta = first_update(run, run.settings.measured_epochs[-1])
    else:
        delta = make_update(run, method, entities, seed, None if single else folder)
    locality = run.locality[i % step :: step] if single else run.locality
    result = evaluate_update(run.model, entities, delta, locality=locality, condition=method)
    yield from result_rows(result, delta.skipped)
    shutil.rmtree(folder, ignore_errors=True)


def _sentences(run: KnowledgeRun, entities: Sequence[Entity], seed: int, *, swapped: bool) -> TransferSet:
    """The sentences about some entities, fewer for a single one; `swapped`: those written about the next entity, renamed."""
    n, keys = run.settings.n_sentences_single if len(entities) == 1 else None, {entity.key for entity in entities}
    texts: dict[str, tuple[str, ...]] = {}
    for source, members in run.sources.items():
        if keys.isdisjoint(entity.key for entity in members):
            continue
        sentences = run.sentences(source, seed).sentences
        for entity, other in zip(members, [*members[1:], members[0]], strict=True):
            if swapped:
                texts[entity.key] = tuple(other.renamed(text, entity.name) for text in sentences.get(other.key, ()))
            else:
                texts[entity.key] = sentences.get(entity.key, ())
    return TransferSet({key: texts.get(key, ())[:n] for key in (entity.key for entity in entities)})
