"""A study as it lies in its folder, finished or not: no model is loaded to read it."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from lens_fv.core.json_files import read_json
from lens_fv.core.store import ResultStore
from lens_fv.errors import LensFVError


@dataclass(frozen=True)
class RecordedStudy:
    """What one model's folder holds.

    Attributes:
        name: model name.
        folder: folder of the study.
        study: which, as `lens-fv reproduce` names it.

    Raises:
        LensFVError: there is no study.
    """

    name: str
    folder: Path
    study: ClassVar[str]

    def __post_init__(self) -> None:
        if not (self.folder / "study.json").is_file():
            raise LensFVError(
                f"report on {self.name}: there is no study in {self.folder}; run `lens-fv reproduce {self.study}`"
            )

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What it was run with, and the model."""
        return read_json(self.folder / "study.json", dict, what="a study's settings", remedy="run the study in another folder")

    @property
    def shown(self) -> dict[str, Any]:
        """The settings that the page lists."""
        return {key: value for key, value in self.settings.items() if key != "model"}

    @property
    def made_with(self) -> dict[str, str]:
        """Versions of packages, and the like."""
        return self.part("versions")

    def as_run(self, command: str) -> str:
        """A command with the precision of products, and of weights, that the study was made with."""
        precision, weights = self.made_with.get("matmul"), self.made_with.get("weights", "float32")
        command = command.replace("lens-fv ", f"lens-fv --matmul {precision} ", 1) if precision else command
        return command if weights == "float32" else f"{command} --dtype {weights}"

    @property
    def slug(self) -> str:
        """The name, as part of a file's."""
        return re.sub(r"[^\w.-]+", "-", self.name).strip("-")

    @property
    def command(self) -> str | None:
        """The command that runs the same; None: its options cannot say it, or it is one command for several models."""
        return None

    def part(self, name: str) -> dict[str, Any]:
        """The records of a part, none if it was not run yet."""
        return dict(ResultStore(self.folder / f"{name}.json").items())
