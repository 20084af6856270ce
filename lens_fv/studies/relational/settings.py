"""Settings of the study of relations, and what its parts share: tasks and libraries of vectors."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from lens_fv.composition import ExtractRecipe, TuneRecipe, VectorLibrary, build_library
from lens_fv.core.files import file_lock
from lens_fv.evaluation import Evaluation, evaluate
from lens_fv.studies.rows import Row
from lens_fv.studies.study import Study
from lens_fv.tasks import Task, list_tasks, load_task
from lens_fv.vectors import FunctionVector

Method = Literal["tuned", "extracted", "shuffled"]
SUBSET = (
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
        subset: Relations on which options of tuning, injection and baselines are compared; if the study has none of them, its
            first three.
        seeds: Seeds of splits, prompts and random draws. Completion, decoding and the comparison with built-in groups and
            families run for all seeds; the rest uses only the first, and its vectors are the basis of composites.
        n_heads, n_shots, n_clean, n_trials: Options of the extraction; see `extract` and `rank_heads`.
        pairs, steps: Number of training pairs and of Adam steps for tuning.
        max_validation: Maximum number of validation pairs per relation for choosing layers and steps.
        max_items: Maximum number of test pairs per relation.
        n_pairs: Numbers of training pairs to compare.
        depths: Layers to compare, as fractions of the depth.
        n_map_analogies: Number of analogies per relation for learning a map.
        n_test_analogies: Number of analogies per relation for reporting.
        semeval: Folder of SemEval-2012 Task 2; None omits the comparison with human typicality.
        rated_stride: Stride through SemEval's relations; 2 uses every second one.

    Raises:
        LensFVError: no such relation.
    """

    relations: tuple[str, ...] = field(default_factory=lambda: tuple(list_tasks()))
    subset: tuple[str, ...] = SUBSET
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
    n_map_analogies: int = 8
    n_test_analogies: int = 4
    semeval: str | None = None
    rated_stride: int = 2

    def __post_init__(self) -> None:
        """Refuse unknown relations before a model is loaded."""
        for name in self.relations:
            load_task(name)

    @classmethod
    def quick(cls) -> "RelationalSettings":
        """A small version: eight relations, one seed, and few pairs, steps and analogies."""
        return cls(
            relations=SUBSET,
            subset=SUBSET[::3],
            seeds=(0,),
            steps=20,
            max_items=12,
            n_pairs=(5, 20),
            depths=(0.3, 0.5, 0.7),
            n_map_analogies=4,
            n_test_analogies=3,
        )


class RelationalRun(Study[RelationalSettings]):
    """Tasks and vectors of one model's run."""

    @property
    def seed(self) -> int:
        """The first seed, of the parts that use only one."""
        return self.settings.seeds[0]

    @cached_property
    def tasks(self) -> dict[str, Task]:
        """The relations, by name."""
        return {name: load_task(name) for name in self.settings.relations}

    @property
    def subset(self) -> list[str]:
        """Names of the relations on which options are compared."""
        return subset(self.settings.relations, self.settings.subset)

    def library(self, method: Method, seed: int) -> VectorLibrary:
        """The relations' vectors: tuned ones at the middle layer, extracted ones each at its best layer."""
        if (method, seed) not in self._libraries:
            folder, tasks = self.folder / f"{method}-{seed}", list(self.tasks.values())
            recipe = self.extracted() if method == "extracted" else self.tuned(shuffled=method == "shuffled")
            with file_lock(folder):  # another worker may be building it
                library = build_library(self.model, tasks, folder, recipe, seed=seed, progress=self.progress)
            self._libraries[method, seed] = library
        return self._libraries[method, seed]

    @cached_property
    def _libraries(self) -> dict[tuple[Method, int], VectorLibrary]:
        return {}

    def extracted(self, layer: int | None = None) -> ExtractRecipe:
        """The study's recipe for extracted vectors."""
        s = self.settings
        return ExtractRecipe(layer, s.n_heads, s.n_shots, s.n_clean, s.n_trials, s.max_validation)

    def tuned(self, *, shuffled: bool = False) -> TuneRecipe:
        """The study's recipe for tuned vectors."""
        s = self.settings
        return TuneRecipe(n_pairs=s.pairs, steps=s.steps, shuffled=shuffled, max_validation=s.max_validation)

    def evaluate(self, name: str, vectors: Mapping[str, FunctionVector], *, seed: int) -> Iterator[Row]:
        """Rows of vectors on a relation's test pairs, with the same demonstrations in all few-shot prompts."""
        s = self.settings
        options = {"n_shots": s.n_shots, "same_shots": True, "max_items": s.max_items, "seed": seed}
        return evaluation_rows(name, evaluate(self.model, self.tasks[name], vectors, **options))


def subset(relations: Sequence[str], names: Sequence[str]) -> list[str]:
    """Those of the names that are relations of the study, or else the first three relations."""
    return [name for name in names if name in relations] or list(relations[:3])


def evaluation_rows(unit: str, evaluation: Evaluation) -> Iterator[Row]:
    """Rows of all conditions of an evaluation."""
    for result in evaluation.results:
        measures = {
            "top1_accuracy": result.top1,
            "top3_accuracy": result.top3,
            "exact_match": result.exact_match,
            "logprob_per_answer_nats": result.logprob_per_answer,
        }
        for measure, value in measures.items():
            yield Row(unit, result.condition, measure, value.mean, value.n)
