"""Fine-tuning runs: folders with the settings, the tasks and all checkpoints."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from lens_fv.core.files import file_name
from lens_fv.core.json_files import read_json, record, validated
from lens_fv.core.tables import DataFrame, data_frame
from lens_fv.errors import LensFVError
from lens_fv.finetuning.loop import complete_checkpoints
from lens_fv.tasks import ChatTemplate, PromptTemplate, Task, load_task

RUN = "run.json"
TASKS = "tasks"
MIXTURE = "mixture"
UPDATES = "adapter_model.safetensors"


@dataclass(frozen=True)
class SavedTask:
    """One of a run's tasks."""

    name: str
    fingerprint: str


@dataclass(frozen=True)
class SavedSettings:
    """Fields of a run's `FinetuneConfig` that are read back."""

    update: Literal["lora", "full"]
    mixed: bool
    n_examples: int
    template: dict[str, Any]


@dataclass(frozen=True)
class RunDescription:
    """Required contents of `run.json`; see `FinetuneRun.about`."""

    model: str
    source: str
    revision: str | None
    dtype: str
    settings: SavedSettings
    tasks: tuple[SavedTask, ...]
    fingerprint: str | None = None


@dataclass(frozen=True)
class Checkpoint:
    """Saved weights at one step of a run.

    Attributes:
        folder: Folder with the PEFT adapter or all weights.
        task: Task being trained, or "mixture"; `index` is its position in the sequence, from 0.
        step: Step within the task, from 1.
        total: Number of steps since the start of the run.
        last: Whether this is the task's final checkpoint.
    """

    folder: Path
    task: str
    index: int
    step: int
    total: int
    last: bool

    @property
    def name(self) -> str:
        """Checkpoint name, such as "1-antonym/16"."""
        return f"{self.index}-{self.task}/{self.step}"


@dataclass(frozen=True)
class FinetuneRun:
    """A fine-tuning run in a folder.

    Attributes:
        folder: Folder of the run.

    Raises:
        LensFVError: the folder holds no run.

    Example:
        >>> settings = lens_fv.FinetuneConfig(n_examples=4, batch_size=4, n_checkpoints=1, rank=2)
        >>> _ = lens_fv.finetune(model_folder, [lens_fv.load_task('antonym')], folder / 'run', settings)
        >>> run = lens_fv.FinetuneRun(folder / 'run')
        >>> with lens_fv.finetuning.at_checkpoint(lens_fv.load_model(model_folder), run, run.checkpoint()) as model:
        ...     print(model.revision.endswith('0-antonym/1'))
        True
    """

    _MADE_BY: ClassVar[str] = "finetune"

    folder: Path

    def __post_init__(self) -> None:
        if not (self.folder / RUN).is_file():
            raise LensFVError(f"fine-tuning run in {self.folder}: no {RUN} there; `lens-fv finetune` makes one")

    @cached_property
    def about(self) -> dict[str, Any]:
        """Run description from `run.json`.

        Its keys are `model`, `source`, `revision`, `fingerprint`, `dtype`, `settings` and `tasks` (name and fingerprint). Some
        runs have `swap_tasks`, the names of the tasks that provide a guide's instructions, or `averaged`, the weight of the
        checkpoints in `interpolate_weights`.
        """
        remedy = "the run has to be made again"
        about = read_json(self.folder / RUN, dict, what="a fine-tuning run", remedy=remedy)
        validated(about, RunDescription, f"{self.folder / RUN}", remedy=remedy)
        return about

    @property
    def tasks(self) -> list[str]:
        """Task names in training order."""
        return [task["name"] for task in self.about["tasks"]]

    def load_tasks(self) -> list[Task]:
        """Load the tasks from the copies kept in the run.

        Raises:
            LensFVError: a copy is missing or damaged.
        """
        return [load_task(self.folder / TASKS / f"{_stage(i, name)}.json") for i, name in enumerate(self.tasks)]

    @property
    def stages(self) -> list[str]:
        """Names of the consecutive training stages: the tasks, or their mixture."""
        return [MIXTURE] if self.about["settings"]["mixed"] else self.tasks

    @property
    def source(self) -> str:
        """Name or path from which `load_model` loads the initial model."""
        return self.about["source"] if Path(self.about["source"]).is_dir() else self.about["model"]

    @property
    def template(self) -> PromptTemplate:
        """Prompt template of the run."""
        parts = self.about["settings"]["template"]
        kind = ChatTemplate if "start" in parts else PromptTemplate
        return record(kind, parts, f"{self.folder / RUN}: template")

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """Complete checkpoints, in order."""
        checkpoints: list[Checkpoint] = []
        for index, task in enumerate(self.stages):
            folder = self.stage_folder(index)
            for step, marker in complete_checkpoints(folder).items():
                path = folder / f"checkpoint-{step}"
                checkpoints.append(Checkpoint(path, task, index, step, marker.total, marker.last))
        return sorted(checkpoints, key=lambda checkpoint: checkpoint.total)

    def checkpoint(self, name: str | None = None) -> Checkpoint:
        """Return a checkpoint by name, or the last one by default.

        Raises:
            LensFVError: no checkpoints, or none of this name.
        """
        by_name = {checkpoint.name: checkpoint for checkpoint in self.checkpoints}
        name = name or next(reversed(by_name), "of the end")
        if name not in by_name:
            raise LensFVError(f"checkpoint {name} of the run in {self.folder}: it has {', '.join(by_name) or 'none'}")
        return by_name[name]

    def summary(self) -> dict[str, str]:
        """The key facts as labels and values."""
        settings = self.about["settings"]
        return {
            "model": self.about["model"],
            "tasks": ", ".join(self.tasks),
            "update": settings["update"],
            "seed": str(settings["seed"]),
            "checkpoints": f"{len(self.checkpoints)}{'' if self.finished else ', unfinished'}",
        }

    def to_dataframe(self) -> DataFrame:
        """One row per checkpoint; see `Checkpoint`."""
        return data_frame(self.checkpoints)

    @property
    def finished(self) -> bool:
        """Whether all stages are complete."""
        return sum(checkpoint.last for checkpoint in self.checkpoints) == len(self.stages)

    def stage_folder(self, index: int) -> Path:
        """Return the folder with a stage's checkpoints."""
        return self.folder / _stage(index, self.stages[index])


def save_tasks(folder: Path, tasks: Sequence[Task]) -> None:
    """Copy a run's tasks into its folder."""
    for index, task in enumerate(tasks):
        task.save(folder / TASKS / f"{_stage(index, task.name)}.json")


def _stage(index: int, name: str) -> str:
    return f"{index}-{file_name(name)}"
