"""Training settings for distillation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lens_fv.core.choices import Count, Natural, NonNegative, Positive, Seed, Whole, checked
from lens_fv.core.divergence import Direction
from lens_fv.errors import LensFVError
from lens_fv.knowledge.examples import TargetTokens

RATES: Mapping[str, float] = {"lora": 5e-4, "full": 3e-5}
"""Default learning rates by `update`, chosen with the other defaults on ten invented entities that no study reports on."""
ALONE: Mapping[str, Any] = {"epochs": 3, "learning_rate": 2e-3, "n_anchors": 1}
"""Low-rank defaults for distilling a single entity."""
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
"""Low-rank defaults for distilling several entities, which the model must learn to tell apart."""
RELEASED: Mapping[str, Any] = {
    "update": "full",
    "epochs": 5,
    "n_definitions": 0,
    "n_shared": 0,
    "n_anchors": 0,
    "batch_size": 1,
    "learning_rate": 1e-4,
    "schedule": "constant",
    "optimizer": "per_sentence",
    "weight_decay": 0.01,
    "max_grad_norm": None,
    "dropout": True,
    "target_tokens": "all",
    "temperature": 2.0,
    "top_k": None,
}
"""Settings of the code released by Padmanabhan et al. (2023) for Entity Inferences; for ECBD its learning rate is 3e-6."""


@checked
@dataclass(frozen=True)
class DistillConfig:
    """Training settings for distillation; `for_entities` gives the defaults for one entity or for many at once.

    The loss of a step averages over each sentence's tokens first and over sentences second, so a token of a short sentence has
    more weight than one of a long sentence.

    Attributes:
        update: "lora" trains low-rank updates of all linear maps of the blocks (PEFT). "full" trains all weights, or those of
            `layers`.
        layers: Layers to train; default: all, and the embeddings if `update` is "full".
        rank: Rank of the low-rank updates.
        alpha: Scaling numerator of the low-rank updates; default: twice the rank.
        epochs: Number of passes over the sentences.
        n_definitions: Number of times an entity's definition is added to its sentences; see `TransferSet.with_definitions`.
        n_shared: Number of other entities' sentences that are rewritten for each entity; see `TransferSet.with_shared`.
        n_anchors: Number of anchors per sentence. Each epoch takes the next anchors in order and none twice, starting over once
            all have been used.
        batch_size: Number of sentences and anchors per step.
        micro_batch_size: Maximum number of sentences per forward pass, for gradient accumulation. It affects memory and speed,
            not the result.
        group_by_length: Batch examples of similar length, which saves computation on padding.
        learning_rate: AdamW learning rate at the first step; default: 5e-4 for low-rank updates, 3e-5 for all weights.
        schedule: "linear" decays the learning rate linearly to 0 after the last step; "constant" keeps it.
        optimizer: "shared" uses one optimiser for the whole run, with sentences shuffled in each epoch. "per_sentence" runs all
            epochs of one sentence in a row with a new optimiser, then moves to the next; it requires a `batch_size` of 1 and no
            anchors.
        weight_decay: AdamW weight decay, applied to all trained weights.
        max_grad_norm: Maximum norm of a step's gradient over all trained weights; None disables clipping.
        dropout: Train with the dropout of the model's configuration. The teacher never uses dropout.
        target_tokens: Tokens to train on: those "after_mention" of the entity, or "all"; see `make_example`.
        direction: Direction of the divergence that is the loss: "forward" or "reverse" KL, or "jsd"; see `divergence`.
        temperature: Temperature of both distributions in the loss.
        top_k: Number of tokens kept from each teacher distribution; None keeps all.
        n_checkpoints: Number of checkpoints, if the run has a folder.
        seed: Seed of the order of the sentences and of the initial low-rank updates.

    Raises:
        LensFVError: a value out of range.

    Example:
        >>> lens_fv.DistillConfig.released().target_tokens
        'all'
    """

    update: Literal["lora", "full"] = "lora"
    layers: tuple[Whole, ...] | None = None
    rank: Count = 8
    alpha: Count | None = None
    epochs: Count = 5
    n_definitions: Natural = 2
    n_shared: Natural = 0
    n_anchors: Natural = 2
    batch_size: Count = 2
    micro_batch_size: Count = 8
    group_by_length: bool = False
    learning_rate: Positive | None = None
    schedule: Literal["linear", "constant"] = "linear"
    optimizer: Literal["shared", "per_sentence"] = "shared"
    weight_decay: NonNegative = 0.0
    max_grad_norm: Positive | None = 1.0
    dropout: bool = False
    target_tokens: TargetTokens = "after_mention"
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
        """Learning rate at the first step."""
        return RATES[self.update] if self.learning_rate is None else self.learning_rate

    @classmethod
    @checked
    def for_entities(cls, n_entities: Count, **others: Any) -> "DistillConfig":
        """Return the default settings for a number of entities; several entities get more training signal each.

        Args:
            n_entities: Number of entities distilled together.
            **others: Settings that override the defaults.
        """
        if others.get("update", "lora") == "full":
            return cls(**others)
        return cls(**{**(ALONE if n_entities == 1 else TOGETHER), **others})

    @classmethod
    def released(cls, **others: Any) -> "DistillConfig":
        """Return the settings of the code released by Padmanabhan et al. (2023), for one entity or many.

        It trains all weights and takes five consecutive steps on each sentence, each sentence with its own AdamW at a constant
        rate of 1e-4 (the rate for Entity Inferences; for ECBD pass `learning_rate=3e-6`). It uses temperature 2, all tokens,
        weight decay and dropout, and no clipping. Their code takes 5 sentences per entity. The documentation's page on
        protocols lists the remaining differences.

        Args:
            **others: Settings that override these.
        """
        return cls(**{**RELEASED, **others})
