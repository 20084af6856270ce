"""Settings of the study, the methods it compares, and the folder with its results."""

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
IV, SWAP, SWAP_HEADS, SWAP_KL = (PRESETS[name] for name in ("iv", "swap", "swap-heads", "swap-kl"))
FV = replace(PRESETS["fv"], teacher="base")
"""Variant used in the study: the preset's own teacher is the model before each task."""


@dataclass(frozen=True)
class Method:
    """A training method.

    Attributes:
        training: settings that differ from plain low-rank fine-tuning.
        share: weight of the fine-tuned model when its weights are averaged with the initial ones after training.
        control: control to use as guide: random vectors of the same norms, or other heads of the same layers.
        n_heads: number of heads of the vectors; None: the study's default.
        depth: layer at which vectors are added, as a share of the depth; None: chosen on validation pairs.
    """

    training: Mapping[str, Any] = field(default_factory=dict)
    share: float = 1.0
    control: Literal["random vectors", "other heads"] | None = None
    n_heads: int | None = None
    depth: float | None = None

    def settings(self, usual: FinetuneConfig, seed: int) -> FinetuneConfig:
        """Return the training settings of the method."""
        return replace(usual, **self.training, mixed=False, seed=seed)

    def guided(self, **changes: Any) -> "Method":
        """Return the method with some settings of its guide changed."""
        return replace(self, training={**self.training, "guide": replace(self.training["guide"], **changes)})


METHODS: Mapping[str, tuple[Method, ...]] = {
    "lora": (Method(),),
    "full": tuple(Method({"update": "full", "learning_rate": rate}) for rate in (1e-5, 5e-5)),
    "replay": tuple(Method({"replay": share}) for share in (0.1, 0.25)),
    "ewc": tuple(Method({"ewc": weight}) for weight in (1e2, 1e4)),
    "o-lora": tuple(Method({"orthogonal": weight}) for weight in (0.05, 0.5)),
    "average": tuple(Method(share=share) for share in (0.5, 0.75)),
    "lwf": tuple(Method({"guide": replace(PRESETS["lwf"], distill=weight)}) for weight in (1.0, 10.0)),
    "kl": tuple(Method({"guide": replace(PRESETS["kl"], distill=weight)}) for weight in (1.0, 10.0, 3.0)),
    "l2": tuple(Method({"guide": replace(PRESETS["l2"], heads=weight)}) for weight in (1.0, 10.0)),
    "iv": tuple(Method({"guide": replace(IV, distill=weight)}) for weight in (1.0, 10.0)),
    "fv": tuple(Method({"guide": replace(FV, distill=weight)}) for weight in (1.0, 20.0)),
    "swap": (
        *(Method({"guide": replace(SWAP, swap=weight)}) for weight in (1.0, 10.0, 30.0)),
        Method({"guide": replace(SWAP, swap=20.0, start_fraction=0.5)}),
    ),
    "swap-heads": tuple(Method({"guide": replace(SWAP_HEADS, swap_heads=weight)}) for weight in (1.0, 10.0)),
    "swap-kl": (
        Method({"guide": SWAP_KL}),
        Method({"guide": replace(SWAP_KL, swap=20.0, n_swap_prompts=4, start_fraction=0.5)}),
    ),
}
"""Candidate settings by method, to be tried on the tuning sequence; "average" uses the runs of "lora"."""
ABLATIONS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "iv, adding": ("iv", {"intervene": 1.0}),
    "iv, no intervention": ("iv", {"intervene": 0.0}),
    "iv, no teacher": ("iv", {"distill": 0.0}),
    "iv, all at once": ("iv", {"n_decay_steps": 1}),
    "iv, to the end": ("iv", {"hold_fraction": 0.0}),
    "iv, teacher not steered": ("iv", {"steer": 0.0}),
    "fv, no teacher": ("fv", {"distill": 0.0, "distill_all": 0.0}),
    "fv, last prompt token": ("fv", {"distill_all": 0.0}),
    "fv, no heads": ("fv", {"heads": 0.0}),
    "fv, linear maps": ("fv", {"learn_projection": True}),
    "fv, forward": ("fv", {"direction": "forward"}),
    "fv, no gates": ("fv", {"distill_gate": 0.0, "heads_gate": 0.0}),
    "fv, teacher not steered": ("fv", {"steer": 0.0}),
    "fv, second half": ("fv", {"start_fraction": 0.5}),
    "swap, 2 prompts": ("swap", {"n_swap_prompts": 2}),
    "swap, forward": ("swap", {"direction": "forward"}),
    "swap, second half": ("swap", {"start_fraction": 0.5}),
    "swap-heads, 2 prompts": ("swap-heads", {"n_swap_prompts": 2}),
    "swap-heads, all heads": ("swap-heads", {"head_subset": "all"}),
    "swap-heads, divergence too": ("swap-heads", {"swap": 10.0}),
    "swap-kl, 4 prompts": ("swap-kl", {"n_swap_prompts": 4}),
    "kl, second half": ("kl", {"start_fraction": 0.5}),
}
"""Ablations by name: the method that each modifies, and the changed settings."""


@dataclass(frozen=True)
class GuidedSettings:
    """Settings of the study.

    Attributes:
        ground: sequences, seeds, the mixture that is taught first, plain training and vectors. Settings are chosen on the
            sequence `CHOOSING`; the others are reported.
        methods: see `METHODS`.
        ablations: see `ABLATIONS`; run on the first sequence with the first seed.
        head_counts: numbers of heads to compare, for "fv" and "swap-heads".
        depths: depths of the layer at which "fv" adds vectors, to compare.
        epochs: numbers of passes over a task's examples to compare, since slower learning may only need more of them.
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
        """The settings as JSON-compatible values."""
        return json.loads(json.dumps(asdict(self)))

    @property
    def reported(self) -> tuple[str, ...]:
        """Names of the reported sequences."""
        return tuple(name for name in self.ground.sequences if name != CHOOSING)

    @classmethod
    def chosen(cls, *, quick: bool = False, first_seed: int = 0, n_seeds: int | None = None) -> "GuidedSettings":
        """Return the settings for a few high-level options.

        Args:
            quick: whether to run a small version: one seed and one reported sequence, the first settings of a few methods, few
                examples and items.
            first_seed: first seed; the others follow it.
            n_seeds: number of seeds; default: three, or one if `quick`.
        """
        usual = cls()
        seeds = tuple(range(first_seed, first_seed + (n_seeds or (1 if quick else 3))))
        if not quick:
            return replace(usual, ground=replace(usual.ground, seeds=seeds))
        few = dict(list(usual.ground.sequences.items())[:2])
        small = InstructionSettings.chosen(quick=True, first_seed=first_seed)
        return cls(
            ground=replace(small, sequences=few, seeds=seeds, training=replace(small.training, n_examples=40, n_checkpoints=1)),
            methods={name: METHODS[name][:1] for name in ("lora", "average", "kl", "iv", "fv", "swap")},
            ablations=dict(list(ABLATIONS.items())[:1]),
            head_counts=(1,),
            depths=(0.5,),
            epochs=(),
        )


class Study:
    """The study of one model, in its own folder.

    Args:
        model: model name or path for `load_model`.
        folder: folder for runs, vectors and records. Results already there are not computed again.
        settings: settings of the study. A later run may add seeds.
        device, dtype: see `load_model`.
        progress: whether to show progress bars.

    Raises:
        LensFVError: the folder holds a run with other settings, another model or another data type.
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
        """Return the stored results of a part of the study."""
        return ResultStore(self.folder / f"{part}.json")
