"""How much the study does, and where it keeps what it has so far."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from lens_fv.core.store import ResultStore, check_settings
from lens_fv.finetuning import FinetuneConfig
from lens_fv.heads.instructed import Uninformative
from lens_fv.model import LensModel, load_model
from lens_fv.studies.parts import note_versions
from lens_fv.tasks import Task, load_task

SEQUENCES: Mapping[str, tuple[str, ...]] = {
    "forms": ("singular-plural", "verb-agent", "present-past"),
    "facts": ("country-capital", "person-occupation", "country-demonym"),
    "mixed": ("antonym", "element-symbol", "adjective-comparative"),
}
"""Word forms, facts, and some of each; every sequence's tasks are held out from the others."""
MIXTURE = FinetuneConfig(mixed=True, n_examples=120, learning_rate=1e-3, n_checkpoints=2)
TRAINING = FinetuneConfig(n_examples=320, batch_size=8, learning_rate=1e-3, n_checkpoints=2)


@dataclass(frozen=True)
class InstructionSettings:
    """What is run.

    Attributes:
        sequences: by name, tasks in the order in which they are trained: built-in ones, or files.
        seeds: of splits, examples, updates and prompts.
        mixture: how the model is first taught all tasks at once; None: it is taken as it is.
        training: how it is trained on the sequences. The seed and `mixed` of both are the study's.
        counterpart: see `rank_instruction_heads`.
        n_heads, n_clean, n_trials: of the vectors; see `extract_instruction` and `rank_instruction_heads`.
        scales: at which vectors are tried on validation pairs.
        n_shots: demonstrations behind the instruction.
        n_context: demonstrations of the in-context questions.
        max_items: test pairs of each task at most.
        counterparts: to compare, with the first seed.
    """

    sequences: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: dict(SEQUENCES))
    seeds: tuple[int, ...] = (0, 1, 2)
    mixture: FinetuneConfig | None = MIXTURE
    training: FinetuneConfig = TRAINING
    counterpart: Uninformative = "none"
    n_heads: int = 10
    n_clean: int = 20
    n_trials: int = 6
    scales: tuple[float, ...] = (1.0, 2.0)
    n_shots: int = 0
    n_context: int = 3
    max_items: int = 40
    counterparts: tuple[Uninformative, ...] = ("none", "other", "real_text", "equiprobable", "half", "noise_on_instruction")

    @property
    def tasks(self) -> tuple[str, ...]:
        """Of all sequences, each once."""
        return tuple(dict.fromkeys(task for sequence in self.sequences.values() for task in sequence))

    @property
    def said(self) -> dict[str, Any]:
        """As JSON has it."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def chosen(
        cls,
        *,
        quick: bool = False,
        sequences: Sequence[Sequence[str]] | None = None,
        n_heads: int = 10,
        first_seed: int = 0,
        n_seeds: int | None = None,
    ) -> "InstructionSettings":
        """The settings, chosen by a few things.

        Args:
            quick: for a first look: one seed, the first sequence, few examples, items and trials.
            sequences: default: `SEQUENCES`.
            n_heads: of every vector.
            first_seed: the others count on from it.
            n_seeds: default: three, or one.
        """
        given = {_name(each): tuple(each) for each in sequences} if sequences else dict(SEQUENCES)
        seeds = tuple(range(first_seed, first_seed + (n_seeds or (1 if quick else 3))))
        if not quick:
            return cls(sequences=given, seeds=seeds, n_heads=n_heads)
        return cls(
            sequences=dict(list(given.items())[:1]),
            seeds=seeds,
            mixture=replace(MIXTURE, n_examples=40),
            training=replace(TRAINING, n_examples=80),
            n_heads=n_heads,
            n_clean=8,
            n_trials=3,
            max_items=12,
            counterparts=("none", "other"),
        )


def _name(sequence: Sequence[str]) -> str:
    """Of a sequence, good for a file."""
    return "-".join(re.sub(r"[^\w.-]+", "-", Path(task).stem) for task in sequence)


class Study:
    """One model's run, in a folder of its own.

    Args:
        model: what `load_model` takes.
        folder: where runs, vectors, moments and records are kept. What is there is not made again.
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
        settings: InstructionSettings,
        *,
        device: str | None = None,
        dtype: torch.dtype | str | None = None,
        progress: bool = False,
    ) -> None:
        self.model, self.folder, self.settings, self.progress = model, Path(folder), settings, progress
        self.place = {"device": device, "dtype": dtype}
        self._loaded: tuple[str, LensModel] | None = None
        check_settings(self.folder / "study.json", {"model": model, **settings.said}, may_grow="seeds")
        note_versions(self.folder, dtype)

    @cached_property
    def tasks(self) -> dict[str, Task]:
        """By name, as in the sequences."""
        found = {name: load_task(name) for name in self.settings.tasks}
        return {task.name: task for task in found.values()}

    def sequence(self, name: str) -> list[Task]:
        """The tasks of a sequence."""
        return [load_task(task) for task in self.settings.sequences[name]]

    def records(self, part: str) -> ResultStore:
        """What a part of the study has so far."""
        return ResultStore(self.folder / f"{part}.json")

    def start(self, seed: int) -> str | Path:
        """Where sequences begin: the model that was taught the mixture."""
        return self.folder / f"{Path(self.model).name}-mixture-{seed}" if self.settings.mixture else self.model

    def load(self, model: str | Path) -> LensModel:
        """A model; the last one stays in memory.

        Raises:
            LensFVError: the folder holds a run of other weights under the model's name.
        """
        if self._loaded is None or self._loaded[0] != str(model):
            self._loaded = None  # let the other one go first
            self._loaded = str(model), load_model(model, **self.place)
            if str(model) == str(self.model):
                check_settings(self.folder / "weights.json", {"fingerprint": self._loaded[1].fingerprint})
        return self._loaded[1]
