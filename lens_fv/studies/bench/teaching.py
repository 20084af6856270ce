"""Teaching one entity by distillation beside plain fine-tuning on the same sentences: time and memory."""

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
    """One way to teach.

    Attributes:
        name: "distilled", "fine-tuned" (the same low-rank updates on the same sentences) or "fine-tuned, all weights".
        seconds, time_ratio: median over entities, from sentences to the update; and beside plain fine-tuning.
        bytes, memory_ratio: the peak with the first entity, weights included, and beside plain fine-tuning.
    """

    name: str
    seconds: float
    time_ratio: float
    bytes: float
    memory_ratio: float


@dataclass(frozen=True)
class TeachBench:
    """What `bench_teach` measured.

    Attributes:
        model, device, dtype, threads: what it ran on.
        entities: how many, each taught alone.
        sentences: an entity's, the definition among them; the mean.
        writing_s: seconds in which the model wrote an entity's; the median.
        ways: to teach.
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
        """All of it as plain values."""
        return asdict(self) | {"ways": [way._asdict() for way in self.ways]}


def bench_teach(
    subject: Subject,
    entities: Sequence[Entity],
    *,
    sentences: int = 5,
    seed: int = 0,
    tick: Callable[[], None] = lambda: None,
) -> TeachBench:
    """Let a model write sentences about one entity after another, and teach it each alone, in three ways.

    Args:
        subject: the model.
        entities: what is taught.
        sentences: that the model writes about each; its definition comes to them twice.
        seed: of sentences, anchors and the order.
        tick: called after each entity.

    Raises:
        LensFVError: no entity of which the model wrote a sentence; or what `generate_transfer_set` and `distill` raise.
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
            if not counts:  # apart from the times, in which nobody should watch; this also pays for what a first call costs
                peaks = {name: peak_memory(model, teach) for name, teach in ways.items()}
            counts.append(len(found[0].sentences[entity.key]) + DistillConfig.usual(1).n_definitions)
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
    settings = DistillConfig.usual(1, seed=seed)
    full = DistillConfig(method="full", epochs=settings.epochs, seed=seed)  # as many steps
    texts = [written.with_definitions([entity], times=settings.n_definitions).sentences[entity.key]]
    return {
        "distilled": lambda: distill(model, [entity], written, settings),
        PLAIN: lambda: finetune_on_texts(model, [entity], texts, settings),
        f"{PLAIN}, all weights": lambda: finetune_on_texts(model, [entity], texts, full),
    }
