"""Vector arithmetic on list tasks: is the vector of a composed task the sum of its parts?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lens_fv.core.choices import Count, Natural, Seed, checked
from lens_fv.core.display import Displayed
from lens_fv.core.tables import DataFrame
from lens_fv.errors import LensFVError
from lens_fv.evaluation.evaluate import evaluate
from lens_fv.evaluation.results import Evaluation
from lens_fv.model.lens_model import LensModel
from lens_fv.tasks import TODD, PromptTemplate, Task, make_list_task, split_pairs
from lens_fv.vectors import FunctionVector, tune_many

PARTS = ("first_output", "last_copy", "first_copy", "direct", "predicted")
Make = Callable[[Sequence[Task]], Sequence[FunctionVector]]


@dataclass(frozen=True, repr=False)
class ListComposition(Displayed):
    """Vectors and evaluation from `compose_lists`.

    Attributes:
        vectors: "first_output", "last_copy", "first_copy", their combination "predicted", and "direct", made for the composed
            task itself.
        evaluation: Evaluation of all five on the composed task's test lists, with the controls of `evaluate`.
    """

    vectors: dict[str, FunctionVector]
    evaluation: Evaluation

    def summary(self) -> dict[str, str]:
        """The key facts of the evaluation."""
        return self.evaluation.summary()

    def to_dataframe(self) -> DataFrame:
        """One row per condition; see `Evaluation.to_dataframe`."""
        return self.evaluation.to_dataframe()

    def save(self, folder: str | Path) -> Path:
        """Write the vectors and the evaluation to files of their names in a folder."""
        for name, artefact in {**self.vectors, "evaluation": self.evaluation}.items():
            artefact.save(Path(folder) / f"{name}.safetensors")
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path) -> "ListComposition":
        """Read the folder that `save` wrote."""
        vectors = {name: FunctionVector.load(Path(folder) / f"{name}.safetensors") for name in PARTS}
        return cls(vectors, Evaluation.load(Path(folder) / "evaluation.safetensors"))


@checked
def compose_lists(
    model: LensModel,
    task: Task,
    make: Make | None = None,
    *,
    length: Count = 3,
    n_pairs: Count = 200,
    n_shots: Natural = 10,
    max_items: Count | None = None,
    template: PromptTemplate = TODD,
    seed: Seed = 0,
    progress: bool = False,
) -> ListComposition:
    """Predict the vector of "the last word's output" from three others, and test it (Todd et al. 2024).

    On lists of a task's inputs: v(last, output) = v(first, output) + v(last, copy) - v(first, copy). The prediction is compared
    with its three parts, the vector made for the task itself, and a random vector of the same norm.

    Args:
        model: The model.
        task: Task that provides the inputs for the lists; see `make_list_task`.
        make: Function that makes vectors for four tasks, all at one layer, from the training and validation parts of
            `split_pairs(task, seed=seed)`; default: `tune_many` at the middle layer.
        length: Number of words per list.
        n_pairs: Number of lists per task. Parts of the split may share words but no list.
        n_shots: See `evaluate`.
        max_items: See `evaluate`.
        template: Prompt template.
        seed: Seed of the lists, their splits and the random vector.
        progress: Draw progress bars.

    Raises:
        LensFVError: an error from `make_list_task`, `combine`, `evaluate` or the default `make`, or a wrong number of vectors.

    Example:
        >>> def make(tasks):
        ...     return lens_fv.tune_many(model, tasks, n_pairs=4, steps=2, layers=1)
        >>> lists = lens_fv.evaluation.compose_lists(model, task, make, n_pairs=40, n_shots=2, max_items=4)
        >>> 'predicted' in lists.evaluation.conditions
        True
    """
    tasks = {
        f"{item}_{answer}": make_list_task(task, item, answer=answer, length=length, n_pairs=n_pairs, seed=seed)
        for item in ("first", "last")
        for answer in ("output", "copy")
    }
    composed = tasks["last_output"]
    splits = {part.name: split_pairs(part, seed=seed) for part in tasks.values()}
    if make is None:
        layer = model.layer_at(0.5)
        make = partial(tune_many, model, layers=layer, split=splits, template=template, seed=seed, progress=progress)
    vectors = make(list(tasks.values()))
    if len(vectors) != len(tasks):
        raise LensFVError(f"compose lists of {task.name}: `make` gave {len(vectors)} vectors for {len(tasks)} tasks")
    by_part = dict(zip(tasks, vectors, strict=True))
    conditions = {name: by_part[name] for name in ("first_output", "last_copy", "first_copy")} | {
        "direct": by_part["last_output"]
    }
    # Last, so that the random control has its norm.
    conditions["predicted"] = conditions["first_output"] + conditions["last_copy"] - conditions["first_copy"]
    evaluation = evaluate(
        model,
        composed,
        conditions,
        split=splits[composed.name],
        n_shots=n_shots,
        max_items=max_items,
        template=template,
        seed=seed,
        progress=progress,
    )
    return ListComposition(conditions, evaluation)
