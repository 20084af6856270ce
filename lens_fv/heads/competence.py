"""Whether a model can do a task at all, and which queries it answers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from jaxtyping import Bool
from torch import Tensor

from lens_fv.core.artefact import Artefact, Provenance
from lens_fv.core.choices import Natural, Seed, checked
from lens_fv.core.options import takes_options
from lens_fv.core.statistics import Estimate, proportion
from lens_fv.core.store import load_or_compute
from lens_fv.core.tables import DataFrame, data_frame
from lens_fv.errors import LensFVError
from lens_fv.model.lens_model import LensModel
from lens_fv.patching.answers import score_answers
from lens_fv.tasks import TODD, Pair, PromptTemplate, Split, Task, build_prompts, encode_prompts, split_pairs

Queries = Literal["all", "answered"]
T = TypeVar("T")


@dataclass(frozen=True, repr=False, eq=False)
class Competence(Artefact):
    """First-token accuracy of a model after demonstrations.

    Attributes:
        right: For each item, whether the likeliest first token begins an acceptable answer.
        majority: Accuracy of the best constant first token on these items, at least that of the majority label.
    """

    right: Bool[Tensor, " items"]
    majority: float

    @property
    def accuracy(self) -> Estimate:
        """Fraction of items answered correctly, with Wilson's 95 % interval."""
        return proportion(int(self.right.sum()), len(self.right))

    @property
    def beats_majority(self) -> bool:
        """Whether the accuracy is above `majority`."""
        return self.accuracy.mean > self.majority

    def to_dataframe(self) -> DataFrame:
        """One row per item: whether the likeliest first token begins an acceptable answer."""
        return data_frame({"item": i, "top1": right} for i, right in enumerate(self.right.tolist()))

    def summary(self) -> dict[str, str]:
        """See `Artefact.summary`."""
        accuracy = f"{self.accuracy} of {len(self.right)}"
        return super().summary() | {"accuracy": accuracy, "majority": f"{self.majority:.2f}"}


@checked
@dataclass(frozen=True, kw_only=True)
class CompetenceConfig:
    """Options of `competence`.

    Attributes:
        split: Split of the task's pairs; default: `split_pairs(task, seed=seed)`. Demonstrations come from its training part.
        items: Pairs to query; default: the validation part, so that no choice depends on the test part.
        n_shots: Number of demonstrations per prompt.
        template: Prompt template.
        instruction: Text before each prompt; several instructions alternate over prompts.
        seed: Seed of split and demonstrations.
        folder: Folder to store the result in; a stored result of the same settings is loaded instead of recomputed.
    """

    split: Split | None = None
    items: Sequence[Pair] | None = None
    n_shots: Natural = 10
    template: PromptTemplate = TODD
    instruction: str | Sequence[str | None] | None = None
    seed: Seed = 0
    folder: str | Path | None = None


@takes_options(CompetenceConfig)
@torch.no_grad()
def competence(model: LensModel, task: Task, options: CompetenceConfig) -> Competence:
    """Measure first-token accuracy after demonstrations, and the majority baseline it has to beat.

    Todd et al. (2024) compare with the frequency of the majority label. Because only first tokens are scored here, the
    baseline is the most common first token: the best that a constant answer can do.

    Args:
        model: Model to measure.
        task: Task to measure.
        options: Keywords: the fields of `CompetenceConfig`.

    Example:
        >>> lens_fv.heads.competence(capable_model, capable_tasks[0], n_shots=0, instruction='Please do0 it').accuracy.mean
        1.0
    """
    split = options.split or split_pairs(task, seed=options.seed)
    texts = build_prompts(
        split.validation if options.items is None else options.items,
        split.train,
        n_shots=options.n_shots,
        template=options.template,
        instruction=options.instruction,
        seed=options.seed,
    )
    prompts = encode_prompts(model, texts)
    provenance = Provenance.of(
        model,
        task=task.name,
        task_hash=task.fingerprint,
        prompts=[p.tokens for p in prompts],
        seed=options.seed,
        method="few-shot accuracy",
        options={"n_shots": options.n_shots},
    )

    def compute() -> Competence:
        first_tokens = Counter(token for prompt in prompts for token in prompt.first_tokens)
        right = score_answers(model, prompts, [[]]).top1[:, 0]
        return Competence(provenance=provenance, right=right, majority=max(first_tokens.values()) / len(prompts))

    return load_or_compute(options.folder, Competence, provenance, compute)


class ChosenQueries(NamedTuple):
    """The queries of a measurement.

    Attributes:
        kept: Indices of the chosen items; None: all.
        recorded: Record of the choice for the provenance: empty if all items are used; otherwise `queries`, `n_queries` (number
            kept) and `n_items` (number available).
    """

    kept: tuple[int, ...] | None
    recorded: dict[str, Any]

    def of(self, items: Sequence[T]) -> tuple[T, ...]:
        """Select the chosen entries of `items`, or of any other sequence with one entry per item."""
        return tuple(items) if self.kept is None else tuple(items[i] for i in self.kept)


@checked
def choose_queries(model: LensModel, task: Task, queries: Queries, options: CompetenceConfig) -> ChosenQueries:
    """Choose which of a task's pairs to query: all, or those that the model answers after demonstrations.

    A query counts as answered if greedy decoding after the demonstrations begins with the first token of an acceptable
    answer (see `competence`). The code of Todd et al. (2024) filters the queries of mean outputs, effects and evaluations by
    the same first-token rule; their pairs have one answer each.

    Args:
        model: Model to measure.
        task: Task the pairs belong to.
        queries: "all" or "answered".
        options: Which pairs to choose from (`items`), and how the model's competence on them is measured.

    Raises:
        LensFVError: the model answers none of the queries.

    Example:
        >>> settings = lens_fv.heads.CompetenceConfig(n_shots=2)
        >>> lens_fv.heads.choose_queries(model, task, 'all', settings).of(task.pairs) == task.pairs
        True
    """
    if queries == "all":
        return ChosenQueries(None, {})
    right = competence(model, task, options).right
    kept = tuple(right.nonzero()[:, 0].tolist())
    if not kept:
        raise LensFVError(
            f"ask what {model.name} answers of {task.name}: after {options.n_shots} demonstrations it answers none of "
            f"{len(right)} queries; use queries='all', more demonstrations or an easier task"
        )
    return ChosenQueries(kept, {"queries": queries, "n_queries": len(kept), "n_items": len(right)})


def queries_summary(provenance: Provenance) -> dict[str, str]:
    """A line for `Artefact.summary` with the number of queries kept; empty if all were used."""
    options = provenance.options
    return {"queries": f"{options['n_queries']} of {options['n_items']}, those answered"} if "queries" in options else {}
