"""How a model is taught."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lens_fv.core.choices import Count, Natural, NonNegative, Positive, Seed, Whole, checked
from lens_fv.errors import LensFVError
from lens_fv.knowledge.examples import Where
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
RELEASED: Mapping[str, Any] = {
    "method": "full",
    "epochs": 5,
    "n_definitions": 0,
    "n_shared": 0,
    "n_anchors": 0,
    "batch_size": 1,
    "learning_rate": 1e-4,
    "schedule": "constant",
    "optimizer": "per_sentence",
    "weight_decay": 0.01,
    "clip": None,
    "dropout": True,
    "where": "all",
    "temperature": 2.0,
    "top_k": None,
}
"""What the code does that Padmanabhan et al. (2023) released, on Entity Inferences; on ECBD its learning rate is 3e-6."""


@checked
@dataclass(frozen=True)
class DistillConfig:
    """How a model is taught; `usual` says what distillation takes for one entity, and for many at once.

    A step's loss is the mean over its sentences of the mean over each one's tokens, so that a token of a short sentence counts
    for more than one of a long sentence.

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
        learning_rate: of AdamW at the first step. None: `RATES` has it.
        schedule: "linear": it falls in a straight line, to 0 after the last step; "constant": it stays.
        optimizer: "shared": one for the whole run, sentences in random order in every epoch. "per_sentence": all epochs of one
            sentence after another, in a new optimizer, then the next sentence's; takes a `batch_size` of 1 and no anchors.
        weight_decay: of AdamW, on all weights that are trained.
        clip: largest length of a step's gradient, over all that is trained; a longer one is scaled down to it. None: no limit.
        dropout: train with the dropout of the model's configuration; the teacher has none.
        where: which tokens of a sentence; see `make_example`.
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
    schedule: Literal["linear", "constant"] = "linear"
    optimizer: Literal["shared", "per_sentence"] = "shared"
    weight_decay: NonNegative = 0.0
    clip: Positive | None = 1.0
    dropout: bool = False
    where: Where = "after_mention"
    direction: Direction = "forward"
    temperature: Positive = 1.0
    top_k: Count | None = 256
    n_checkpoints: Count = 1
    seed: Seed = 0

    def __post_init__(self) -> None:
        if self.layers is not None and not self.layers:
            raise LensFVError("teach with layers=(): give at least one, or None for all")
        if self.optimizer == "per_sentence" and (self.batch_size > 1 or self.n_anchors or self.group_by_length):
            raise LensFVError(
                f"teach with an optimizer per_sentence, batch_size={self.batch_size}, n_anchors={self.n_anchors}, "
                f"group_by_length={self.group_by_length}: it takes steps of 1 sentence, no anchors and no grouping"
            )

    @property
    def rate(self) -> float:
        """The learning rate at the first step."""
        return RATES[self.method] if self.learning_rate is None else self.learning_rate

    @classmethod
    @checked
    def usual(cls, n_entities: Count, **others: Any) -> "DistillConfig":
        """Those to distil so many entities at once: several are taught more about each.

        Args:
            n_entities: how many.
            **others: settings of one's own.
        """
        low_rank = others.get("method", "lora") == "lora"
        return cls(**{**((ALONE if n_entities == 1 else TOGETHER) if low_rank else {}), **others})

    @classmethod
    def released(cls, **others: Any) -> "DistillConfig":
        """Those of the code that Padmanabhan et al. (2023) released, for one entity or many.

        All weights; five steps in a row on each sentence, with an AdamW of its own at a constant rate of 1e-4 (that of Entity
        Inferences; for ECBD give `learning_rate=3e-6`); temperature 2; all tokens; weight decay and dropout, no clipping. Their
        code takes 5 sentences of each entity. What it does otherwise still is on the documentation's page on protocols.

        Args:
            **others: settings of one's own.
        """
        return cls(**{**RELEASED, **others})
