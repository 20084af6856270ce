"""How a model is taught."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lens_fv.choices import Count, Natural, Positive, Seed, Whole, checked
from lens_fv.errors import LensFVError
from lens_fv.knowledge.lessons import Where
from lens_fv.knowledge.targets import Direction

RATES: Mapping[str, float] = {"lora": 5e-4, "full": 3e-5}
"""Learning rates by method, chosen with all else on ten invented entities that no study reports on."""
ALONE: Mapping[str, Any] = {"epochs": 3, "learning_rate": 2e-3, "n_anchors": 1}
"""What low-rank updates take to distil one entity,"""
TOGETHER: Mapping[str, Any] = {
    "epochs": 3,
    "rank": 32,
    "learning_rate": 1e-3,
    "batch_size": 8,
    "group_by_length": True,
    "n_definitions": 5,
    "n_shared": 10,
    "n_anchors": 1,
}
"""and several, which have to be told apart."""


@checked
@dataclass(frozen=True)
class TeachSettings:
    """How a model is taught; `usual` says what distillation takes for one entity, and for many at once.

    Attributes:
        method: "lora": low-rank updates of all linear maps of blocks, by PEFT. "full": all weights, or those of `layers`.
        layers: whose weights; None: all, with embeddings if the method is "full".
        rank, alpha: of low-rank updates; alpha None: twice the rank.
        epochs: how often each sentence is taught.
        n_definitions: how often its definition is among an entity's sentences; see `TransferSet.with_definitions`.
        n_shared: sentences of the others that each of several entities is taught too; see `TransferSet.with_shared`.
        n_anchors: taught beside each sentence: an epoch takes the next ones, none of them twice, and after the last the first.
        batch_size: sentences and anchors a step.
        at_once: of these, sentences that run together; it changes memory and speed, not the result.
        group_by_length: steps take lessons of about one length, as padding costs what tokens do.
        learning_rate: of AdamW at the first step; it falls in a straight line, to 0 behind the last. None: `RATES` has it.
        where: which tokens of a sentence; see `make_lesson`.
        direction, temperature: of the loss; see `divergence`.
        top_k: tokens kept of each of the teacher's distributions; None: all of them.
        n_checkpoints: of a run with a folder.
        seed: of the order, and of what low-rank updates begin with.

    Raises:
        LensFVError: a number that is out of range.
    """

    method: Literal["lora", "full"] = "lora"
    layers: tuple[Whole, ...] | None = None
    rank: Count = 8
    alpha: Count | None = None
    epochs: Count = 5
    n_definitions: Natural = 2
    n_shared: Natural = 0
    n_anchors: Natural = 2
    batch_size: Count = 2
    at_once: Count = 8
    group_by_length: bool = False
    learning_rate: Positive | None = None
    where: Where = "after_mention"
    direction: Direction = "forward"
    temperature: Positive = 1.0
    top_k: Count | None = 256
    n_checkpoints: Count = 1
    seed: Seed = 0

    def __post_init__(self) -> None:
        if self.layers is not None and not self.layers:
            raise LensFVError("teach with layers=(): give at least one, or None for all")

    @property
    def rate(self) -> float:
        """The learning rate at the first step."""
        return RATES[self.method] if self.learning_rate is None else self.learning_rate

    @classmethod
    @checked
    def usual(cls, n_entities: Count, **others: Any) -> "TeachSettings":
        """Those to distil so many entities at once: several are taught more about each.

        Args:
            n_entities: how many.
            **others: settings of one's own.
        """
        low_rank = others.get("method", "lora") == "lora"
        return cls(**{**((ALONE if n_entities == 1 else TOGETHER) if low_rank else {}), **others})
