"""How much the study does, and where it keeps what it has so far."""

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
"""Relations of every group, each with at least 40 training pairs: what is varied is varied on these."""


@dataclass(frozen=True)
class RelationalSettings:
    """What is run.

    Attributes:
        relations: default: all built-in ones.
        few: those on which pairs, layers, starts and kinds are varied.
        seeds: of splits, prompts and draws. Completion, decoding and human alignment are run for all of them; the rest for the
            first, whose vectors are the basis of composites.
        n_heads, n_shots, n_clean, n_trials: of the extraction; see `extract` and `rank_heads`.
        pairs, steps: of the tuning.
        max_validation: validation pairs of each relation at most, to choose layers and steps on.
        max_items: test pairs of each relation at most.
        n_pairs: numbers of training pairs to compare.
        depths: of the layer, as shares, to compare.
        n_analogies: of each relation, to learn a map from and to report on.
        semeval: folder of SemEval-2012 Task 2; without it there is no comparison with human typicality.
        rated_every: each so manieth of its relations is taken.
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
    rated_every: int = 2

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
        """The settings, chosen by a few things.

        Args:
            quick: for a first look: `FEW` relations, one seed, few prompts, pairs, steps and analogies.
            relations: default: all built-in ones, or `FEW`.
            first_seed: the others count on from it.
            n_seeds: default: three, or one.
            semeval: see above.
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
"""What a first look does less of."""


class Study:
    """One model's run, in a folder of its own.

    Args:
        model: the model.
        folder: where vectors and records are kept. What is there is not made again.
        settings: what is run. More seeds may follow those that the folder was run with.
        progress: draw progress bars.

    Raises:
        LensFVError: the folder holds a run of other settings, or of other weights.
    """

    def __init__(self, model: LensModel, folder: str | Path, settings: RelationalSettings, *, progress: bool = False) -> None:
        self.model, self.folder, self.settings, self.progress = model, Path(folder), settings, progress
        self._libraries: dict[tuple[Method, int], VectorLibrary] = {}
        about = {"model": model.name, "revision": model.revision, "fingerprint": model.fingerprint, **asdict(settings)}
        about["semeval"] = settings.semeval and Path(settings.semeval).name  # wherever it lies
        check_settings(self.folder / "study.json", about, may_grow="seeds")
        note_versions(self.folder, model.dtype)

    @cached_property
    def tasks(self) -> dict[str, Task]:
        """The relations, by name."""
        return {name: load_task(name) for name in self.settings.relations}

    def some(self, names: Sequence[str]) -> dict[str, Task]:
        """Those of the relations that have these names."""
        return {name: self.tasks[name] for name in names if name in self.tasks}

    def records(self, part: str) -> ResultStore:
        """What a part of the study has so far."""
        return ResultStore(self.folder / f"{part}.json")

    def library(self, method: Method, seed: int) -> VectorLibrary:
        """The relations' vectors: tuned ones at the middle layer, extracted ones each at its own best."""
        if (method, seed) in self._libraries:
            return self._libraries[method, seed]
        recipe = self.extracted() if method == "extracted" else self.tuned(shuffled=method == "shuffled")
        folder = self.folder / f"{method}-{seed}"
        made = build_library(self.model, list(self.tasks.values()), folder, recipe, seed=seed, progress=self.progress)
        return self._libraries.setdefault((method, seed), made)

    def extracted(self, layer: int | None = None) -> Extracted:
        """How the study extracts vectors."""
        s = self.settings
        return Extracted(layer, s.n_heads, s.n_shots, s.n_clean, s.n_trials, s.max_validation)

    def tuned(self, *, shuffled: bool = False) -> Tuned:
        """How the study tunes vectors."""
        s = self.settings
        return Tuned(pairs=s.pairs, steps=s.steps, shuffled=shuffled, max_validation=s.max_validation)
