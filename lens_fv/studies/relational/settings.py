"""Settings of the study, and the folder with its results."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from lens_fv.composition import Extracted, Tuned, VectorLibrary, build_library
from lens_fv.core.store import ResultStore, check_settings
from lens_fv.model.lens_model import LensModel
from lens_fv.studies.parts import note_versions
from lens_fv.tasks import Task, list_tasks, load_task

Method = Literal["tuned", "extracted", "shuffled"]
FEW = (
    "present-past",
    "adjective-comparative",
    "country-capital",
    "person-occupation",
    "antonym",
    "object-color",
    "capitalize",
    "english-french",
)
"""Relations from every group, each with at least 40 training pairs, on which options are varied."""


@dataclass(frozen=True)
class RelationalSettings:
    """Settings of the study of relations.

    Attributes:
        relations: Relations to study; default: all built-in ones.
        few: Relations on which pairs, layers, starts and kinds of vectors are varied.
        seeds: Seeds of splits, prompts and random draws. Completion, decoding and the comparison with built-in groups and
            families run for all seeds; the rest uses only the first, and its vectors are the basis of composites.
        n_heads, n_shots, n_clean, n_trials: Options of the extraction; see `extract` and `rank_heads`.
        pairs, steps: Number of training pairs and of Adam steps for tuning.
        max_validation: Maximum number of validation pairs per relation for choosing layers and steps.
        max_items: Maximum number of test pairs per relation.
        n_pairs: Numbers of training pairs to compare.
        depths: Layers to compare, as fractions of the depth.
        n_analogies: Number of analogies per relation for learning a map, and for reporting.
        semeval: Folder of SemEval-2012 Task 2; None omits the comparison with human typicality.
        rated_stride: Stride through SemEval's relations; 2 uses every second one.
    """

    relations: tuple[str, ...] = field(default_factory=lambda: tuple(list_tasks()))
    few: tuple[str, ...] = FEW
    seeds: tuple[int, ...] = (0, 1, 2)
    n_heads: int = 10
    n_shots: int = 10
    n_clean: int = 10
    n_trials: int = 4
    pairs: int = 20
    steps: int = 30
    max_validation: int = 16
    max_items: int = 20
    n_pairs: tuple[int, ...] = (5, 10, 20, 40)
    depths: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    n_analogies: tuple[int, int] = (8, 4)
    semeval: str | None = None
    rated_stride: int = 2

    @classmethod
    def chosen(
        cls,
        *,
        quick: bool = False,
        relations: Sequence[str] | None = None,
        first_seed: int = 0,
        n_seeds: int | None = None,
        semeval: str | None = None,
    ) -> "RelationalSettings":
        """Settings from a few main options.

        Args:
            quick: Quick first run: `FEW` relations, one seed, and few prompts, pairs, steps and analogies.
            relations: Relations to study; default: all built-in ones, or `FEW` if `quick`.
            first_seed: First seed; further seeds count up from it.
            n_seeds: Number of seeds; default: 3, or 1 if `quick`.
            semeval: Folder of SemEval-2012 Task 2.
        """
        names = tuple(relations or (FEW if quick else list_tasks()))
        n = n_seeds or (1 if quick else 3)
        few = tuple(name for name in (FEW[::3] if quick else FEW) if name in names) or names[:3]
        seeds = tuple(range(first_seed, first_seed + n))
        return cls(relations=names, few=few, seeds=seeds, semeval=semeval, **(QUICK if quick else {}))


QUICK: Mapping[str, Any] = {
    "n_clean": 10,
    "n_trials": 4,
    "steps": 20,
    "max_items": 12,
    "n_pairs": (5, 20),
    "depths": (0.3, 0.5, 0.7),
    "n_analogies": (4, 3),
}
"""Reduced settings of a quick run."""


class Study:
    """The study of one model, in its own folder.

    Args:
        model: Model to study.
        folder: Folder for vectors and records; results already there are not recomputed.
        settings: Settings of the study. A resumed run may add seeds after those of the first run.
        progress: Show progress bars.

    Raises:
        LensFVError: the folder holds a run with other settings or other weights.
    """

    def __init__(self, model: LensModel, folder: str | Path, settings: RelationalSettings, *, progress: bool = False) -> None:
        self.model, self.folder, self.settings, self.progress = model, Path(folder), settings, progress
        self._libraries: dict[tuple[Method, int], VectorLibrary] = {}
        about = {"model": model.name, "revision": model.revision, "fingerprint": model.fingerprint, **asdict(settings)}
        about["semeval"] = settings.semeval and Path(settings.semeval).name  # wherever the folder is
        check_settings(self.folder / "study.json", about, may_grow="seeds")
        note_versions(self.folder, model.dtype)

    @cached_property
    def tasks(self) -> dict[str, Task]:
        """The relations, by name."""
        return {name: load_task(name) for name in self.settings.relations}

    def some(self, names: Sequence[str]) -> dict[str, Task]:
        """The relations with these names."""
        return {name: self.tasks[name] for name in names if name in self.tasks}

    def records(self, part: str) -> ResultStore:
        """The records of a part so far."""
        return ResultStore(self.folder / f"{part}.json")

    def library(self, method: Method, seed: int) -> VectorLibrary:
        """The relations' vectors: tuned ones at the middle layer, extracted ones each at its best layer."""
        if (method, seed) in self._libraries:
            return self._libraries[method, seed]
        recipe = self.extracted() if method == "extracted" else self.tuned(shuffled=method == "shuffled")
        folder = self.folder / f"{method}-{seed}"
        made = build_library(self.model, list(self.tasks.values()), folder, recipe, seed=seed, progress=self.progress)
        return self._libraries.setdefault((method, seed), made)

    def extracted(self, layer: int | None = None) -> Extracted:
        """The study's recipe for extracted vectors."""
        s = self.settings
        return Extracted(layer, s.n_heads, s.n_shots, s.n_clean, s.n_trials, s.max_validation)

    def tuned(self, *, shuffled: bool = False) -> Tuned:
        """The study's recipe for tuned vectors."""
        s = self.settings
        return Tuned(pairs=s.pairs, steps=s.steps, shuffled=shuffled, max_validation=s.max_validation)
