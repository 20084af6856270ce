"""Settings of the study of instructed tasks, and the models and tasks that its parts share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TypeAlias, TypeVar

from lens_fv.core.files import file_lock, file_name
from lens_fv.core.statistics import proportion
from lens_fv.errors import LensFVError
from lens_fv.finetuning import FinetuneConfig, FinetuneRun, export_checkpoint, finetune
from lens_fv.heads.instructed import Uninformative
from lens_fv.model import LensModel, load_model
from lens_fv.studies.study import Study
from lens_fv.studies.tables import View
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
        sequences: Tasks in training order by sequence name: built-in tasks or files.
        seeds: Seeds of the splits, the examples, the updates and the prompts.
        mixture: Settings for first teaching the model all tasks at once; None: the model is used as it is.
        training: Settings for training the sequences. The study sets the seed and `mixed` of both.
        counterpart: See `rank_instruction_heads`.
        n_heads, n_clean, n_trials: Settings of the vectors; see `extract` and `rank_instruction_heads`.
        scales: Scales of the vectors to try on validation pairs.
        n_shots: Number of demonstrations in the instructed prompts.
        n_context: Number of demonstrations in the in-context prompts.
        max_items: Maximum number of test pairs per task.
        counterparts: Counterparts to compare, with the first seed.
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

    @classmethod
    def quick(cls) -> "InstructionSettings":
        """A small version: one seed, one sequence, few examples, items and trials."""
        return cls(
            sequences={"forms": SEQUENCES["forms"]},
            seeds=(0,),
            mixture=replace(MIXTURE, n_examples=40),
            training=replace(TRAINING, n_examples=80),
            n_clean=8,
            n_trials=3,
            max_items=12,
            counterparts=("none", "other"),
        )


SomeSettings = TypeVar("SomeSettings", bound=InstructionSettings, covariant=True)


class InstructedStudy(Study[SomeSettings]):
    """A study of tasks with instructions: its tasks, and the models that its sequences start from."""

    _loaded: tuple[int, LensModel] | None = None

    @cached_property
    def tasks(self) -> dict[str, Task]:
        """Tasks of all sequences, by name."""
        tasks = [load_task(name) for name in self.settings.tasks]
        return {task.name: task for task in tasks}

    def sequence(self, name: str) -> list[Task]:
        """The tasks of a sequence, in training order."""
        names = dict(zip(self.settings.tasks, self.tasks, strict=True))  # a file's name and its task's
        return [self.tasks[names[task]] for task in self.settings.sequences[name]]

    @property
    def finetune(self) -> "partial[FinetuneRun]":
        """`finetune` on the device of the model, with its data type."""
        return partial(finetune, device=str(self.model.device), dtype=self.model.dtype, progress=self.progress)

    def start(self, seed: int) -> str | Path:
        """The model that sequences start from: the one taught the mixture, or the original model without a mixture."""
        mixture = self.settings.mixture
        if mixture is None:
            return self.source
        taught = self.folder / f"{file_name(Path(self.source).name)}-mixture-{seed}"
        with file_lock(taught):  # another worker waits
            if not taught.is_dir():
                config, tasks = replace(mixture, mixed=True, seed=seed), list(self.tasks.values())
                export_checkpoint(self.finetune(self.source, tasks, self.folder / f"mixture-{seed}", config), taught)
        return taught

    def taught(self, seed: int) -> LensModel:
        """The loaded model that sequences start from; only the last one is kept in memory."""
        if self.settings.mixture is None:
            return self.model
        if self._loaded is None or self._loaded[0] != seed:
            self._loaded = None  # free the other model first
            self._loaded = seed, load_model(self.start(seed), device=str(self.model.device), dtype=self.model.dtype)
        return self._loaded[1]

    def entered(self, seed: int) -> dict[str, Task]:
        """The tasks that the starting model performs above the majority baseline, by the whole interval of its accuracy.

        Raises:
            LensFVError: no task qualifies, or the part "start" has not been run.
        """
        start, entered = View(self.rows.frame()).where(part="start", condition="after", seed=seed), dict[str, Task]()
        for name, task in self.tasks.items():
            scores = start.where(unit=name).values("measure")
            if not scores:
                raise LensFVError(f"study {self.model.name} with seed {seed}: run the part start first")
            if enters(scores["correct"], scores["majority_accuracy"][0]):
                entered[name] = task
        if not entered:
            raise LensFVError(
                f"follow fine-tuning of {self.model.name} with seed {seed}: at the start it follows none of "
                f"{', '.join(self.tasks)}; choose other tasks, or teach it more of the mixture"
            )
        return entered


Instructed: TypeAlias = InstructedStudy[InstructionSettings]


def enters(correct: Sequence[float], majority: float) -> bool:
    """Whether a task enters the study: whether its accuracy exceeds that of always giving the most frequent first token."""
    return proportion(sum(correct), len(correct)).ci_low > majority
