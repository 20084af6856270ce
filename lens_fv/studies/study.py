"""A study: settings, parts that yield jobs, and a template that says what the rows show."""

import importlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, cast

from lens_fv.core.choices import nearest
from lens_fv.core.files import file_name
from lens_fv.core.json_files import read_json
from lens_fv.core.progress import progress_bar
from lens_fv.core.provenance import versions
from lens_fv.core.store import check_settings, recorded_settings
from lens_fv.errors import LensFVError
from lens_fv.model.lens_model import LensModel
from lens_fv.studies.rows import Job, RowStore
from lens_fv.studies.tables import View

S = TypeVar("S", covariant=True)
STUDIES = ("relational", "instruction", "knowledge", "guided")
"""Names of the studies. The class of each is `STUDY` of the package of its name."""


class Study(Generic[S]):
    """One model's run of a study, in a folder of its own. A study is a subclass that declares the class attributes.

    Args:
        model: Model to study.
        folder: Folder for vectors and rows; jobs whose rows are there are not run again.
        settings: Settings of the study.
        source: Name or folder that the model was loaded from, for studies that fine-tune it; default: the model's name.
        progress: Show progress bars.

    Attributes:
        name: Name of the study and of its page.
        settings_type: Its settings: a frozen dataclass with `seeds` and a class method `quick()` that returns a small version.
        parts: Parts in the order in which they run; each yields its jobs.
        models: Models that it runs on by default.
        external: Settings that name files outside the project; only the file names are recorded.
        hidden: Settings that the page does not list at its end, because they stand next to their results or are not used.
        derived: Returns the table of a run's rows with the columns and rows that are derived from them; default: the rows.
        context: Computes what the template NAME.md.j2 needs besides `runs` and their `rows`.
        headline: Returns the main numbers of one model, for the command line and its JSON.

    Raises:
        LensFVError: the folder holds a run with other settings, weights or data type.
    """

    name: ClassVar[str]
    settings_type: ClassVar[type[Any]]
    parts: ClassVar[Mapping[str, Callable[[Any], Iterable[Job]]]]
    models: ClassVar[tuple[str, ...]] = ("smollm2-135m",)
    external: ClassVar[tuple[str, ...]] = ()
    hidden: ClassVar[tuple[str, ...]] = ()
    derived: "ClassVar[Callable[[Results], Any]]" = staticmethod(lambda run: run.rows.frame)
    context: "ClassVar[Callable[[View, Sequence[Results]], Mapping[str, Any]]]"
    headline: "ClassVar[Callable[[View, Results], Mapping[str, Any]]]"

    def __init__(
        self,
        model: LensModel,
        folder: str | Path,
        settings: S,
        *,
        source: str | Path | None = None,
        progress: bool = False,
    ) -> None:
        self.model, self.folder, self.settings, self.progress = model, Path(folder), settings, progress
        self.source = source or model.name
        about: dict[str, Any] = json.loads(json.dumps(asdict(cast(Any, settings))))
        for key in self.external:
            about[key] = about[key] and Path(about[key]).name  # the file may move
        file, weights = self.folder / "study.json", str(model.dtype).removeprefix("torch.")
        run = {"model": model.name, "revision": model.revision, "fingerprint": model.fingerprint, "weights": weights, **about}
        run["versions"] = recorded_settings(file).get("versions", versions())  # those that the run began with
        check_settings(file, run, may_grow="seeds")
        self.rows = RowStore(self.folder / "rows.jsonl", model.name, settings_hash(about))

    @classmethod
    def view(cls, *runs: "Results") -> View:
        """The rows of runs, each with its name as `model`, and with what the study derives from them."""
        import pandas as pd

        return View(pd.concat([cls.derived(run).assign(model=run.name) for run in runs], ignore_index=True))

    def run(self, parts: Sequence[str] | None = None) -> None:
        """Run or resume parts of the study, by default all, in the order in which they are declared.

        Jobs that another worker has claimed are waited for at the end of their part.

        Raises:
            LensFVError: a part is unknown, or a job raises.
        """
        check_parts(parts or (), self.parts)
        for part, jobs in self.parts.items():
            if parts and part not in parts:
                continue
            unfinished = [job for job in jobs(self) if job not in self.rows]
            with progress_bar(f"{self.name}: {part}", len(unfinished), show=self.progress) as tick:
                for wait in (False, True):
                    for job in list(unfinished):
                        if self.rows.compute(job, wait=wait):
                            unfinished.remove(job)
                            tick()


class Results:
    """The results of one model's run, read from its folder without loading a model.

    Args:
        folder: Folder of the run.
        name: Name of the model; default: the folder's name.

    Attributes:
        run: What study.json holds: model, revision, weights, versions and the settings.

    Raises:
        LensFVError: no study in the folder, or a damaged file.
    """

    def __init__(self, folder: str | Path, name: str | None = None) -> None:
        self.folder = Path(folder)
        self.name = name or self.folder.name
        if not (self.folder / "study.json").is_file():
            raise LensFVError(f"report on {self.name}: there is no study in {self.folder}; run `lens-fv reproduce` first")
        self.run: dict[str, Any] = read_json(
            self.folder / "study.json", dict[str, Any], what="a study's settings", remedy="run the study in another folder"
        )
        self.slug = re.sub(r"[^\w.-]+", "-", self.name).strip("-")

    @property
    def settings(self) -> dict[str, Any]:
        """The settings, without model and versions."""
        about = ("model", "revision", "fingerprint", "weights", "versions")
        return {key: value for key, value in self.run.items() if key not in about}

    @cached_property
    def rows(self) -> View:
        """All rows of the run."""
        return View(RowStore(self.folder / "rows.jsonl", self.run["model"], settings_hash(self.settings)).frame())


def load_study(name: str) -> type[Study[Any]]:
    """The class of a study.

    Raises:
        LensFVError: no study has this name.

    Example:
        >>> from lens_fv.studies.study import load_study
        >>> list(load_study("relational").parts)[0]
        'completion'
    """
    if name not in STUDIES:
        raise LensFVError(f"reproduce {name!r}: the studies are {', '.join(STUDIES)}{nearest(name, STUDIES)}")
    return importlib.import_module(f"lens_fv.studies.{name}").STUDY


def check_parts(parts: Sequence[str], known: Iterable[str]) -> None:
    """Check the names of parts before a model is loaded.

    Raises:
        LensFVError: the study has no part of this name.
    """
    if unknown := [part for part in parts if part not in list(known)]:
        raise LensFVError(
            f"run part {', '.join(unknown)} of the study: there are {', '.join(known)}{nearest(unknown[0], list(known))}"
        )


def run_folders(models: Sequence[str], folder: Path) -> dict[str, Path]:
    """Each model's folder within the folder of a study; without models, those that are there.

    Raises:
        LensFVError: no models, or two models that would share a folder.
    """
    names = list(models) or sorted(path.parent.name for path in folder.glob("*/study.json"))
    if not names:
        raise LensFVError(f"report on what {folder} holds: no study is there; run one first, or name its folder")
    folders = {name: folder / file_name(Path(name).name) for name in names}
    if len(set(folders.values())) < len(names):
        raise LensFVError(f"run {', '.join(names)}: two of them would share a folder in {folder}; run them into two folders")
    return folders


def settings_hash(settings: Mapping[str, Any]) -> str:
    """Hash of the settings that decide what a job computes: all but the list of seeds."""
    decisive = {key: value for key, value in settings.items() if key != "seeds"}
    return sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:12]
