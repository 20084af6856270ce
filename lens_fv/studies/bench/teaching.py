"""Time and memory of teaching one entity by distillation, compared with fine-tuning on the same sentences."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from lens_fv.errors import LensFVError
from lens_fv.knowledge import DistillConfig, Entity, TransferSet, distill, finetune_on_texts, generate_transfer_set
from lens_fv.model.lens_model import LensModel
from lens_fv.studies.bench.clock import Clock, peak_memory
from lens_fv.studies.bench.subject import Subject

PLAIN = "fine-tuned"


class Way(NamedTuple):
    """Cost of one way to teach.

    Attributes:
        name: "distilled", "fine-tuned" (the same low-rank updates on the same sentences) or "fine-tuned, all weights".
        seconds, time_ratio: Median time over entities, from sentences to the update, and its ratio to plain fine-tuning.
        bytes, memory_ratio: Peak memory for the first entity, weights included, and its ratio to plain fine-tuning.
    """

    name: str
    seconds: float
    time_ratio: float
    bytes: float
    memory_ratio: float


@dataclass(frozen=True)
class TeachBench:
    """Results of `bench_teach`.

    Attributes:
        model, device, dtype, threads: Model and hardware of the benchmark.
        entities: Number of entities taught, each on its own.
        sentences: Mean number of sentences per entity, including the repeated definition.
        writing_s: Median time in which the model writes an entity's sentences, in seconds.
        ways: Cost of each way to teach.
    """

    model: str
    device: str
    dtype: str
    threads: int
    entities: int
    sentences: float
    writing_s: float
    ways: tuple[Way, ...]

    def to_json(self) -> dict[str, Any]:
        """All fields as plain values."""
        return asdict(self) | {"ways": [way._asdict() for way in self.ways]}


def bench_teach(
    subject: Subject,
    entities: Sequence[Entity],
    *,
    sentences: int = 5,
    seed: int = 0,
    tick: Callable[[], None] = lambda: None,
) -> TeachBench:
    """Let a model write sentences about each entity, and teach each entity separately in three ways.

    Args:
        subject: Model to teach.
        entities: Entities to teach.
        sentences: Number of sentences that the model writes per entity; the definition is added twice.
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
            clock.time(lambda e=entity, f=found: f.append(generate_transfer_set(model, [e], n=sentences, seed=seed)))
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
    took = {name: statistics.median(each) for name, each in seconds.items()}
    facts = {k: v for k, v in subject.summary().items() if k != "prompt_tokens"}
    return TeachBench(
        **facts,
        entities=len(counts),
        sentences=statistics.fmean(counts),
        writing_s=statistics.median(writing),
        ways=tuple(Way(n, took[n], took[n] / took[PLAIN], peaks[n], peaks[n] / peaks[PLAIN]) for n in took),
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
