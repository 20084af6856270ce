"""Settings of the study of guided fine-tuning: the methods that it compares, and how each trains."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple, TypeAlias

from lens_fv.finetuning import FinetuneConfig
from lens_fv.finetuning.regularizers import PRESETS, GuideConfig
from lens_fv.studies.instruction.settings import SEQUENCES, TRAINING, InstructedStudy, InstructionSettings

CHOOSING = "choosing"
"""The sequence on which settings are chosen; the others are reported."""
GUIDED_TRAINING = replace(TRAINING, n_examples=160, n_checkpoints=1)
CHOSEN_ON = ("adjective-superlative", "country-language", "verb-gerund")
Changes = Mapping[str, Any]
"""Fields of `GuideConfig`, `FinetuneConfig` or `Recipe`, and their values."""

METHODS: Mapping[str, tuple[Changes, ...]] = {
    "lora": ({},),
    "full": ({"learning_rate": 1e-5}, {"learning_rate": 5e-5}),
    "replay": ({"replay": 0.1}, {"replay": 0.25}),
    "ewc": ({"ewc": 1e2}, {"ewc": 1e4}),
    "o-lora": ({"orthogonal": 0.05}, {"orthogonal": 0.5}),
    "average": ({"share": 0.5}, {"share": 0.75}),
    "lwf": ({"distill": 1.0}, {"distill": 10.0}),
    "kl": ({"distill": 1.0}, {"distill": 10.0}, {"distill": 3.0}),
    "l2": ({"heads": 1.0}, {"heads": 10.0}),
    "iv": ({"distill": 1.0}, {"distill": 10.0}),
    "fv": ({"distill": 1.0}, {"distill": 20.0}),
    "swap": (
        *({"swap": weight, "start_fraction": 0.0} for weight in (1.0, 10.0, 30.0)),
        {"swap": 20.0, "start_fraction": 0.5},
    ),
    "swap-heads": ({"swap_heads": 1.0}, {"swap_heads": 10.0}),
    "swap-kl": (
        {"swap": 10.0, "n_swap_prompts": 2, "start_fraction": 0.0},
        {"swap": 20.0, "n_swap_prompts": 4, "start_fraction": 0.5},
    ),
}
"""Candidate settings of each method."""
CONTROLS: Mapping[str, tuple[str, Literal["random vectors", "other heads"]]] = {
    "random": ("fv", "random vectors"),
    "other-heads": ("swap-heads", "other heads"),
}
"""Control methods: the guide that each is based on, and what replaces its vectors or heads."""
ABLATIONS: Mapping[str, Changes] = {
    "iv, adding": {"intervene": 1.0},
    "iv, no intervention": {"intervene": 0.0},
    "iv, no teacher": {"distill": 0.0},
    "iv, all at once": {"n_decay_steps": 1},
    "iv, to the end": {"hold_fraction": 0.0},
    "iv, teacher not steered": {"steer": 0.0},
    "fv, no teacher": {"distill": 0.0, "distill_all": 0.0},
    "fv, last prompt token": {"distill_all": 0.0},
    "fv, no heads": {"heads": 0.0},
    "fv, linear maps": {"learn_projection": True},
    "fv, forward": {"direction": "forward"},
    "fv, no gates": {"distill_gate": 0.0, "heads_gate": 0.0},
    "fv, teacher not steered": {"steer": 0.0},
    "fv, second half": {"start_fraction": 0.5},
    "swap, 2 prompts": {"n_swap_prompts": 2},
    "swap, forward": {"direction": "forward"},
    "swap, second half": {"start_fraction": 0.5},
    "swap-heads, 2 prompts": {"n_swap_prompts": 2},
    "swap-heads, all heads": {"head_subset": "all"},
    "swap-heads, divergence too": {"swap": 10.0},
    "swap-kl, 4 prompts": {"n_swap_prompts": 4},
    "kl, second half": {"start_fraction": 0.5},
    **{f"{method}, {n} heads": {"n_heads": n} for method in ("fv", "swap-heads") for n in (1, 5, 20)},
    **{f"fv, at {depth:.0%} of the depth": {"depth": depth} for depth in (0.3, 0.5, 0.7)},
    **{f"{method}, 2 epochs": {"epochs": 2} for method in ("lora", "kl", "swap-kl")},
}
"""Ablations: the method and the change in words, and the changed settings."""


class Recipe(NamedTuple):
    """How a model is trained.

    Attributes:
        config: Training settings.
        share: Weight of the fine-tuned model when its weights are averaged with the initial ones after training.
        n_heads: Number of heads of the vectors; None: the study's.
        depth: Layer at which vectors are added, as a fraction of the depth; None: chosen on validation pairs.
        control: What replaces the guide's vectors or heads.
    """

    config: FinetuneConfig
    share: float = 1.0
    n_heads: int | None = None
    depth: float | None = None
    control: Literal["random vectors", "other heads"] | None = None


@dataclass(frozen=True)
class GuidedSettings(InstructionSettings):
    """Settings of the study, besides those of `InstructionSettings`.

    Attributes:
        methods: Candidate settings by method, tried on the sequence `CHOOSING`; see `METHODS`.
        ablations: See `ABLATIONS`; run on the first reported sequence with the first seed.
        guides: Guide of each guided method.
        n_timings: Number of repetitions of each timed training step.
    """

    sequences: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {CHOOSING: CHOSEN_ON, **SEQUENCES})
    training: FinetuneConfig = GUIDED_TRAINING
    max_items: int = 30
    methods: Mapping[str, tuple[Changes, ...]] = field(default_factory=lambda: dict(METHODS))
    ablations: Mapping[str, Changes] = field(default_factory=lambda: dict(ABLATIONS))
    guides: Mapping[str, GuideConfig] = field(
        default_factory=lambda: {**PRESETS, "fv": replace(PRESETS["fv"], teacher="base")}  # the same teacher for all guides
    )
    n_timings: int = 5

    @property
    def reported(self) -> tuple[str, ...]:
        """Names of the reported sequences."""
        return tuple(name for name in self.sequences if name != CHOOSING)

    def recipe(self, method: str, *changes: Changes, seed: int) -> Recipe:
        """How a method trains with some settings changed."""
        merged = {name: value for change in changes for name, value in change.items()}
        guide, recipe = self.guides.get(method), {name: merged.pop(name) for name in Recipe._fields if name in merged}
        if guide is not None:
            names = {setting.name for setting in fields(guide)}
            guide = replace(guide, **{name: merged.pop(name) for name in names & merged.keys()})
        update = {"update": "full"} if method == "full" else {}
        return Recipe(replace(self.training, guide=guide, mixed=False, seed=seed, **update, **merged), **recipe)

    @classmethod
    def quick(cls) -> "GuidedSettings":
        """A small version: one seed and one reported sequence, one setting of a few methods, few examples and items."""
        small, names = InstructionSettings.quick(), ("lora", "average", "kl", "iv", "fv", "swap")
        changes: Changes = {
            "sequences": {CHOOSING: CHOSEN_ON, **small.sequences},
            "training": replace(GUIDED_TRAINING, n_examples=40),
            "methods": {name: METHODS[name][:1] for name in names},
            "ablations": {name: ABLATIONS[name] for name in ("iv, adding", "fv, 1 heads", "fv, at 50% of the depth")},
        }
        return cls(**{**vars(small), **changes})


def condition(method: str, changes: Changes) -> str:
    """Name of a method with changed settings, such as "kl, distill 1.0"."""
    return ", ".join([method, *(f"{name} {value}" for name, value in changes.items())])


def method_of(name: str) -> str:
    """The method of a condition "METHOD, CHANGES"."""
    return name.partition(",")[0]


Guided: TypeAlias = InstructedStudy[GuidedSettings]
