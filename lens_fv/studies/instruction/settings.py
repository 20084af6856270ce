"""Settings of the study, and the folder with its results."""

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
"""Sequences of word forms, of facts, and of both mixed; each sequence's tasks are held-out tasks for the others."""
MIXTURE = FinetuneConfig(mixed=True, n_examples=120, learning_rate=1e-3, n_checkpoints=2)
TRAINING = FinetuneConfig(n_examples=320, batch_size=8, learning_rate=1e-3, n_checkpoints=2)


@dataclass(frozen=True)
class InstructionSettings:
    """Settings of the study.

    Attributes:
        sequences: tasks in training order by sequence name: built-in tasks or files.
        seeds: seeds of the splits, the examples, the updates and the prompts.
        mixture: settings for first teaching the model all tasks at once; None: the model is used as it is.
        training: settings for training the sequences. The study sets the seed and `mixed` of both.
        counterpart: see `rank_instruction_heads`.
        n_heads, n_clean, n_trials: settings of the vectors; see `extract_instruction` and `rank_instruction_heads`.
        scales: scales of the vectors to try on validation pairs.
        n_shots: number of demonstrations in the instructed prompts.
        n_context: number of demonstrations in the in-context prompts.
        max_items: maximum number of test pairs per task.
        counterparts: counterparts to compare, with the first seed.
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
        """Tasks of all sequences, without duplicates."""
        return tuple(dict.fromkeys(task for sequence in self.sequences.values() for task in sequence))

    @property
    def said(self) -> dict[str, Any]:
        """The settings as JSON-compatible values."""
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
        """Return the settings for a few high-level options.

        Args:
            quick: whether to run a small version: one seed, the first sequence, few examples, items and trials.
            sequences: task sequences; default: `SEQUENCES`.
            n_heads: number of heads per vector.
            first_seed: first seed; the others follow it.
            n_seeds: number of seeds; default: three, or one if `quick`.
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
    """Return a sequence's name, safe for file names."""
    return "-".join(re.sub(r"[^\w.-]+", "-", Path(task).stem) for task in sequence)


class Study:
    """The study of one model, in its own folder.

    Args:
        model: model name or path for `load_model`.
        folder: folder for runs, vectors, measurements and records. Results already there are not computed again.
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
        """Tasks of all sequences, by name."""
        found = {name: load_task(name) for name in self.settings.tasks}
        return {task.name: task for task in found.values()}

    def sequence(self, name: str) -> list[Task]:
        """Return the tasks of a sequence."""
        return [load_task(task) for task in self.settings.sequences[name]]

    def records(self, part: str) -> ResultStore:
        """Return the stored results of a part of the study."""
        return ResultStore(self.folder / f"{part}.json")

    def start(self, seed: int) -> str | Path:
        """Return the model that sequences start from: the one taught the mixture, or the original model without a mixture."""
        return self.folder / f"{Path(self.model).name}-mixture-{seed}" if self.settings.mixture else self.model

    def load(self, model: str | Path) -> LensModel:
        """Load a model, keeping only the last one in memory.

        Raises:
            LensFVError: the folder holds a run with other weights under the model's name.
        """
        if self._loaded is None or self._loaded[0] != str(model):
            self._loaded = None  # free the other model first
            self._loaded = str(model), load_model(model, **self.place)
            if str(model) == str(self.model):
                check_settings(self.folder / "weights.json", {"fingerprint": self._loaded[1].fingerprint})
        return self._loaded[1]
