"""Time and memory of teaching one entity by distillation, compared with fine-tuning on the same sentences."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lens_fv.core.choices import Count, Seed
from lens_fv.errors import LensFVError
from lens_fv.knowledge import DistillConfig, Entity, TransferSet, distill, finetune_on_texts, generate_transfer_set
from lens_fv.model.lens_model import LensModel
from lens_fv.studies.bench.clock import Clock, compared, peak_memory
from lens_fv.studies.bench.subject import BenchResult, Subject

PLAIN = "fine-tuned"


def bench_teach(
    subject: Subject,
    entities: Sequence[Entity],
    *,
    n_sentences: Count = 5,
    seed: Seed = 0,
    tick: Callable[[], None] = lambda: None,
) -> BenchResult:
    """Let a model write sentences about each entity, and teach each entity separately in three ways.

    Measures:
        entities: Number of entities taught, each on its own.
        sentences: Mean number of sentences per entity, including the repeated definition.
        writing_s: Median time in which the model writes an entity's sentences, in seconds.
        ways: A line for each way to teach: by distillation, by fine-tuning on the same sentences, and by fine-tuning all
            weights on them. Times are medians over entities, from sentences to the update; memory is the peak for the first
            entity.

    Args:
        subject: Model to teach.
        entities: Entities to teach.
        n_sentences: Number of sentences that the model writes per entity; the definition is added twice.
        seed: Seed of sentences, anchors and their order.
        tick: Called after each entity.

    Raises:
        LensFVError: the model wrote no sentence about any entity, or `generate_transfer_set` or `distill` raises.
    """
    model, clock = subject.model, Clock(subject.model)
    writing: list[float] = []
    counts: list[int] = []
    seconds: dict[str, list[float]] = {}
    peaks: dict[str, float] = {}
    for entity in entities:
        found: list[TransferSet] = []
        writing.append(
            clock.time(
                lambda e=entity, f=found: f.append(generate_transfer_set(model, [e], n_sentences=n_sentences, seed=seed))
            )
        )
        if found[0].sentences.get(entity.key):
            ways = _ways(model, entity, found[0], seed)
            if not counts:  # not in the timed runs, which memory tracking would disturb; absorbs one-time costs too
                peaks = {name: peak_memory(model, teach) for name, teach in ways.items()}
            counts.append(len(found[0].sentences[entity.key]) + DistillConfig.for_entities(1).n_definitions)
            for name, teach in ways.items():
                seconds.setdefault(name, []).append(clock.time(teach))
        tick()
    if not counts:
        raise LensFVError(f"teach {subject.model.name}: it wrote no sentence about {len(entities)} entities; ask for more")
    return subject.result(
        entities=len(counts),
        sentences=statistics.fmean(counts),
        writing_s=statistics.median(writing),
        ways=compared({name: statistics.median(times) for name, times in seconds.items()}, peaks, PLAIN, "name"),
    )


def _ways(model: LensModel, entity: Entity, written: TransferSet, seed: int) -> Mapping[str, Callable[[], Any]]:
    settings = DistillConfig.for_entities(1, seed=seed)
    full = DistillConfig(update="full", epochs=settings.epochs, seed=seed)  # the same number of epochs
    texts = [written.with_definitions([entity], n_copies=settings.n_definitions).sentences[entity.key]]
    return {
        "distilled": lambda: distill(model, [entity], written, settings),
        PLAIN: lambda: finetune_on_texts(model, [entity], texts, settings),
        f"{PLAIN}, all weights": lambda: finetune_on_texts(model, [entity], texts, full),
    }
