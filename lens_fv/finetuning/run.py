"""A fine-tuning run as a folder: what was trained, and every checkpoint."""

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from lens_fv.core.files import file_name
from lens_fv.core.json_files import read_json, record, validated
from lens_fv.errors import LensFVError
from lens_fv.tasks import ChatTemplate, PromptTemplate, Task, load_task

RUN = "run.json"
TASKS = "tasks"
MIXTURE = "mixture"
UPDATES = "adapter_model.safetensors"
DONE = "done.json"
"""Written last: a checkpoint without it was not finished."""


@dataclass(frozen=True)
class Done:
    """What a whole checkpoint says about itself; see `Checkpoint`."""

    total: int
    last: bool


@dataclass(frozen=True)
class Named:
    """One of a run's tasks."""

    name: str
    fingerprint: str


@dataclass(frozen=True)
class Trained:
    """What of a run's `FinetuneConfig` is asked for again."""

    method: Literal["lora", "full"]
    mixed: bool
    n_examples: int
    template: dict[str, Any]


@dataclass(frozen=True)
class About:
    """What `run.json` has to hold for the rest of this package; see `FinetuneRun.about`."""

    model: str
    source: str
    revision: str | None
    dtype: str
    settings: Trained
    tasks: tuple[Named, ...]
    fingerprint: str | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A model at one moment of a run.

    Attributes:
        folder: PEFT's adapter, or all weights.
        task: which is being trained, or "mixture"; its `index` in the sequence, from 0.
        step: within the task, from 1.
        total: steps since the run began.
        last: the task ends here.
    """

    folder: Path
    task: str
    index: int
    step: int
    total: int
    last: bool

    @property
    def name(self) -> str:
        """Such as "1-antonym/16"."""
        return f"{self.index}-{self.task}/{self.step}"


@dataclass(frozen=True)
class FinetuneRun:
    """A run's folder.

    Attributes:
        folder: where it is.

    Raises:
        LensFVError: it is no run.
    """

    folder: Path

    def __post_init__(self) -> None:
        if not (self.folder / RUN).is_file():
            raise LensFVError(f"fine-tuning run in {self.folder}: no {RUN} there; `lens-fv finetune` makes one")

    @cached_property
    def about(self) -> dict[str, Any]:
        """`model`, `source`, `revision`, `fingerprint`, `dtype`, `settings` and `tasks` (name and fingerprint)."""
        remedy = "the run has to be made again"
        found = read_json(self.folder / RUN, dict, what="a fine-tuning run", remedy=remedy)
        validated(found, About, f"{self.folder / RUN}", remedy=remedy)
        return found

    @property
    def tasks(self) -> list[str]:
        """Names, in the order in which they are trained."""
        return [task["name"] for task in self.about["tasks"]]

    def load_tasks(self) -> list[Task]:
        """The tasks themselves, of which the run keeps a copy.

        Raises:
            LensFVError: it is gone or damaged.
        """
        return [load_task(self.folder / TASKS / f"{_stage(i, name)}.json") for i, name in enumerate(self.tasks)]

    @property
    def stages(self) -> list[str]:
        """What is trained one after another: the tasks, or their mixture."""
        return [MIXTURE] if self.about["settings"]["mixed"] else self.tasks

    @property
    def source(self) -> str:
        """What `load_model` takes to load the model that the run began with."""
        return self.about["source"] if Path(self.about["source"]).is_dir() else self.about["model"]

    @property
    def template(self) -> PromptTemplate:
        """How prompts were written."""
        parts = self.about["settings"]["template"]
        kind = ChatTemplate if "start" in parts else PromptTemplate
        return kind(**record(kind, parts, f"{self.folder / RUN}: template"))

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """Those that are whole, in order."""
        return sorted(self._found(), key=lambda c: c.total)

    def checkpoint(self, name: str | None = None) -> Checkpoint:
        """One of them; by default the last.

        Raises:
            LensFVError: there is none, or none of this name.
        """
        found = {each.name: each for each in self.checkpoints}
        wanted = name or next(reversed(found), None)
        if wanted not in found:
            raise LensFVError(
                f"checkpoint {name or 'of the end'} of the run in {self.folder}: it has {', '.join(found) or 'none'}"
            )
        return found[wanted]

    @property
    def finished(self) -> bool:
        """Every stage has been trained to its end."""
        return len([c for c in self._found() if c.last]) == len(self.stages)

    def stage_folder(self, index: int) -> Path:
        """Where the checkpoints of one stage are."""
        return self.folder / _stage(index, self.stages[index])

    def _found(self) -> Iterator[Checkpoint]:
        for index, task in enumerate(self.stages):
            for folder in self.stage_folder(index).glob("checkpoint-*"):
                if (folder / DONE).is_file() and (number := re.fullmatch(r"checkpoint-([0-9]{1,9})", folder.name)):
                    try:
                        done = read_json(folder / DONE, Done)
                    except LensFVError:  # damaged, and so no more a whole one than without it
                        continue
                    yield Checkpoint(folder, task, index, int(number[1]), done.total, done.last)


def keep_tasks(folder: Path, tasks: Sequence[Task]) -> None:
    """Put a copy of a run's tasks into its folder."""
    for index, task in enumerate(tasks):
        task.save(folder / TASKS / f"{_stage(index, task.name)}.json")


def _stage(index: int, name: str) -> str:
    return f"{index}-{file_name(name)}"


def clear_unfinished(folder: Path) -> None:
    """Remove the checkpoints that a run was stopped at while writing them."""
    for checkpoint in folder.glob("checkpoint-*"):
        try:
            read_json(checkpoint / DONE, Done)
        except LensFVError:
            shutil.rmtree(checkpoint)
