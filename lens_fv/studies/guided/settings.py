"""How much the study does, which ways to keep abilities it compares, and where it keeps what it has so far."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from lens_fv.core.store import ResultStore, check_settings
from lens_fv.finetuning import FinetuneConfig
from lens_fv.finetuning.regularizers import PRESETS
from lens_fv.studies.instruction.settings import MIXTURE, SEQUENCES, TRAINING, InstructionSettings, Study as Ground
from lens_fv.studies.parts import note_versions

CHOOSING = "choosing"
CHOSEN_BY = ("adjective-superlative", "country-language", "verb-gerund")
IV, CROSSED, CROSSED_HEADS, CROSSED_KL = (PRESETS[name] for name in ("iv", "crossed", "crossed-heads", "crossed-kl"))
FV = replace(PRESETS["fv"], teacher="base")
"""What was measured: the preset's own teacher is the model before each task."""


@dataclass(frozen=True)
class Method:
    """One way to train.

    Attributes:
        training: what it changes in the settings of plain low-rank fine-tuning.
        share: of the fine-tuned weights in an average with the beginning's, behind training.
        control: guide by random vectors of the same lengths, or by other heads of the same layers.
        n_heads: of the vectors; None: the study's.
        depth: where vectors are added, as a share of the layers; None: where validation pairs say.
    """

    training: Mapping[str, Any] = field(default_factory=dict)
    share: float = 1.0
    control: Literal["random vectors", "other heads"] | None = None
    n_heads: int | None = None
    depth: float | None = None

    def settings(self, usual: FinetuneConfig, seed: int) -> FinetuneConfig:
        """Of its training."""
        return replace(usual, **self.training, mixed=False, seed=seed)

    def guided(self, **changes: Any) -> "Method":
        """With a guide that is changed like this."""
        return replace(self, training={**self.training, "guide": replace(self.training["guide"], **changes)})


METHODS: Mapping[str, tuple[Method, ...]] = {
    "lora": (Method(),),
    "full": tuple(Method({"method": "full", "learning_rate": rate}) for rate in (1e-5, 5e-5)),
    "replay": tuple(Method({"replay": share}) for share in (0.1, 0.25)),
    "ewc": tuple(Method({"ewc": weight}) for weight in (1e2, 1e4)),
    "o-lora": tuple(Method({"orthogonal": weight}) for weight in (0.05, 0.5)),
    "average": tuple(Method(share=share) for share in (0.5, 0.75)),
    "lwf": tuple(Method({"guide": replace(PRESETS["lwf"], distill=weight)}) for weight in (1.0, 10.0)),
    "kl": tuple(Method({"guide": replace(PRESETS["kl"], distill=weight)}) for weight in (1.0, 10.0, 3.0)),
    "l2": tuple(Method({"guide": replace(PRESETS["l2"], heads=weight)}) for weight in (1.0, 10.0)),
    "iv": tuple(Method({"guide": replace(IV, distill=weight)}) for weight in (1.0, 10.0)),
    "fv": tuple(Method({"guide": replace(FV, distill=weight)}) for weight in (1.0, 20.0)),
    "crossed": (
        *(Method({"guide": replace(CROSSED, crossed=weight)}) for weight in (1.0, 10.0, 30.0)),
        Method({"guide": replace(CROSSED, crossed=20.0, begins=0.5)}),
    ),
    "crossed-heads": tuple(Method({"guide": replace(CROSSED_HEADS, crossed_heads=weight)}) for weight in (1.0, 10.0)),
    "crossed-kl": (
        Method({"guide": CROSSED_KL}),
        Method({"guide": replace(CROSSED_KL, crossed=20.0, n_crossed=4, begins=0.5)}),
    ),
}
"""By name, what is tried on the sequence that settings are chosen by; "average" is of the runs of "lora"."""
ABLATIONS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "iv, adding": ("iv", {"intervene": 1.0}),
    "iv, no intervention": ("iv", {"intervene": 0.0}),
    "iv, no teacher": ("iv", {"distill": 0.0}),
    "iv, all at once": ("iv", {"stairs": 1}),
    "iv, to the end": ("iv", {"flat": 0.0}),
    "iv, teacher not steered": ("iv", {"steer": 0.0}),
    "fv, no teacher": ("fv", {"distill": 0.0, "distill_all": 0.0}),
    "fv, last prompt token": ("fv", {"distill_all": 0.0}),
    "fv, no heads": ("fv", {"heads": 0.0}),
    "fv, linear maps": ("fv", {"linear": True}),
    "fv, forward": ("fv", {"direction": "forward"}),
    "fv, no gates": ("fv", {"distill_gate": 0.0, "heads_gate": 0.0}),
    "fv, teacher not steered": ("fv", {"steer": 0.0}),
    "fv, second half": ("fv", {"begins": 0.5}),
    "crossed, 2 prompts": ("crossed", {"n_crossed": 2}),
    "crossed, forward": ("crossed", {"direction": "forward"}),
    "crossed, second half": ("crossed", {"begins": 0.5}),
    "crossed-heads, 2 prompts": ("crossed-heads", {"n_crossed": 2}),
    "crossed-heads, all heads": ("crossed-heads", {"matched": "all"}),
    "crossed-heads, divergence too": ("crossed-heads", {"crossed": 10.0}),
    "crossed-kl, 4 prompts": ("crossed-kl", {"n_crossed": 4}),
    "kl, second half": ("kl", {"begins": 0.5}),
}
"""By name, of which guide, and what is different."""


@dataclass(frozen=True)
class GuidedSettings:
    """What is run.

    Attributes:
        ground: sequences, seeds, the mixture that is taught first, plain training and vectors; the sequence `CHOOSING` is the
            one that settings are chosen by, the others are reported.
        methods: see `METHODS`.
        ablations: see `ABLATIONS`; on the first sequence, with the first seed.
        head_counts: numbers of heads to compare, of "fv" and "crossed-heads".
        depths: of the layer that "fv" adds vectors to, to compare.
        epochs: passes over a task's examples, to compare: what learns more slowly may only need more.
    """

    ground: InstructionSettings = field(
        default_factory=lambda: InstructionSettings(
            sequences={CHOOSING: CHOSEN_BY, **SEQUENCES},
            mixture=MIXTURE,
            training=replace(TRAINING, n_examples=160, n_checkpoints=1),
            max_items=30,
        )
    )
    methods: Mapping[str, tuple[Method, ...]] = field(default_factory=lambda: dict(METHODS))
    ablations: Mapping[str, tuple[str, Mapping[str, Any]]] = field(default_factory=lambda: dict(ABLATIONS))
    head_counts: tuple[int, ...] = (1, 5, 20)
    depths: tuple[float, ...] = (0.3, 0.5, 0.7)
    epochs: tuple[int, ...] = (2,)

    @property
    def said(self) -> dict[str, Any]:
        """As JSON has it."""
        return json.loads(json.dumps(asdict(self)))

    @property
    def reported(self) -> tuple[str, ...]:
        """Names of the sequences that are reported."""
        return tuple(name for name in self.ground.sequences if name != CHOOSING)

    @classmethod
    def chosen(cls, *, quick: bool = False, first_seed: int = 0, n_seeds: int | None = None) -> "GuidedSettings":
        """The settings, chosen by a few things.

        Args:
            quick: for a first look: one seed and sequence, the first settings of few methods, few examples and items.
            first_seed: the others count on from it.
            n_seeds: default: three, or one.
        """
        usual = cls()
        seeds = tuple(range(first_seed, first_seed + (n_seeds or (1 if quick else 3))))
        if not quick:
            return replace(usual, ground=replace(usual.ground, seeds=seeds))
        few = dict(list(usual.ground.sequences.items())[:2])
        small = InstructionSettings.chosen(quick=True, first_seed=first_seed)
        return cls(
            ground=replace(small, sequences=few, seeds=seeds, training=replace(small.training, n_examples=40, n_checkpoints=1)),
            methods={name: METHODS[name][:1] for name in ("lora", "average", "kl", "iv", "fv", "crossed")},
            ablations=dict(list(ABLATIONS.items())[:1]),
            head_counts=(1,),
            depths=(0.5,),
            epochs=(),
        )


class Study:
    """One model's run, in a folder of its own.

    Args:
        model: what `load_model` takes.
        folder: where runs, vectors and records are kept. What is there is not made again.
        settings: what is run. More seeds may follow those that the folder was run with.
        device, dtype: see `load_model`.
        progress: draw progress bars.

    Raises:
        LensFVError: the folder holds a run of other settings, of another model or of weights of another type.
    """

    def __init__(
        self,
        model: str,
        folder: str | Path,
        settings: GuidedSettings,
        *,
        device: str | None = None,
        dtype: torch.dtype | str | None = None,
        progress: bool = False,
    ) -> None:
        self.model, self.folder, self.settings, self.progress = model, Path(folder), settings, progress
        said = settings.said
        seeds = said["ground"].pop("seeds")
        check_settings(self.folder / "study.json", {"model": model, "seeds": seeds, **said}, may_grow="seeds")
        note_versions(self.folder, dtype)
        self.ground = Ground(model, self.folder / "ground", settings.ground, device=device, dtype=dtype, progress=progress)

    def records(self, part: str) -> ResultStore:
        """What a part of the study has so far."""
        return ResultStore(self.folder / f"{part}.json")
