"""Does the model do the task at all, and which queries does it answer?"""

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
from lens_fv.core.statistics import wilson_interval
from lens_fv.core.store import load_or_compute
from lens_fv.errors import LensFVError
from lens_fv.model.lens_model import LensModel
from lens_fv.patching.answers import score_answers
from lens_fv.tasks import TODD, Pair, PromptTemplate, Split, Task, build_prompts, encode_prompts, split_pairs

Queries = Literal["all", "answered"]
T = TypeVar("T")


@dataclass(frozen=True, repr=False, eq=False)
class Competence(Artefact):
    """What a model gets right after demonstrations.

    Attributes:
        right: for each item whether the likeliest first token begins an acceptable answer.
        majority: the most that one and the same first token would score on these items: no less than what the majority
            label does.
    """

    right: Bool[Tensor, " items"]
    majority: float

    @property
    def accuracy(self) -> float:
        """Share of the items that are right."""
        return float(self.right.double().mean())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the accuracy."""
        return wilson_interval(int(self.right.sum()), len(self.right))

    @property
    def beats_majority(self) -> bool:
        """Whether the accuracy is above `majority`."""
        return self.accuracy > self.majority

    def summary(self) -> dict[str, str]:
        """See `Artefact.summary`."""
        low, high = self.interval
        found = f"{self.accuracy:.2f} [{low:.2f}, {high:.2f}] of {len(self.right)}"
        return super().summary() | {"accuracy": found, "majority": f"{self.majority:.2f}"}


@checked
@torch.no_grad()
def competence(
    model: LensModel,
    task: Task,
    *,
    split: Split | None = None,
    items: Sequence[Pair] | None = None,
    n_shots: Natural = 10,
    template: PromptTemplate = TODD,
    instruction: str | Sequence[str] | None = None,
    seed: Seed = 0,
    folder: str | Path | None = None,
) -> Competence:
    """First-token accuracy after demonstrations, and what it has to beat.

    Todd et al. (2024) compare with the share of the majority label. First tokens are what is counted here, so the
    commonest first token is what a model that knows no more could always say.

    Args:
        model: the model.
        task: the task.
        split: default: `split_pairs(task, seed=seed)`; demonstrations come from its training part.
        items: pairs to ask about; default: its validation part, so that the test part stays unseen by choices.
        n_shots: demonstrations a prompt.
        template: how prompts are written.
        instruction: in front of them; prompts take turns with several.
        seed: of split and demonstrations.
        folder: keep the result there; one that was made in the same way is loaded, not made again.
    """
    split = split or split_pairs(task, seed=seed)
    queries = split.validation if items is None else items
    made = build_prompts(queries, split.train, n_shots=n_shots, template=template, instruction=instruction, seed=seed)
    prompts = encode_prompts(model, made)
    provenance = Provenance.of(
        model,
        task=task.name,
        task_hash=task.fingerprint,
        prompts=[p.tokens for p in prompts],
        seed=seed,
        method="few-shot accuracy",
        options={"n_shots": n_shots},
    )

    def make() -> Competence:
        commonest = Counter(token for prompt in prompts for token in prompt.first_tokens).most_common(1)[0][1]
        right = score_answers(model, prompts, [[]]).top1[:, 0]
        return Competence(provenance=provenance, right=right, majority=commonest / len(prompts))

    return load_or_compute(folder, Competence, provenance, make)


class Asked(NamedTuple):
    """The queries that a measurement asks.

    Attributes:
        kept: their indices among the items.
        noted: what provenance says of the choice: nothing where all items are asked; else `queries`, `n_queries` (kept) and
            `n_items` (there were).
    """

    kept: tuple[int, ...]
    noted: dict[str, Any]

    def of(self, items: Sequence[T]) -> tuple[T, ...]:
        """Those of the items, or of anything else that there is one of for each item."""
        return tuple(items[i] for i in self.kept)


@checked
def choose_queries(
    model: LensModel,
    task: Task,
    items: Sequence[Pair],
    queries: Queries,
    *,
    split: Split,
    n_shots: Natural,
    template: PromptTemplate = TODD,
    instruction: str | Sequence[str] | None = None,
    seed: Seed = 0,
    folder: str | Path | None = None,
) -> Asked:
    """Which of a task's pairs to ask about: all, or those that the model answers after demonstrations.

    A query counts as answered if greedy decoding after the demonstrations begins with the first token of an acceptable
    answer: `competence`. That is the first-token rule by which the code of Todd et al. (2024) filters the queries of
    mean outputs, effects and evaluations; their pairs have one answer each.

    Args:
        model: the model.
        task: the task.
        items: pairs to choose from.
        queries: "all" or "answered".
        split: demonstrations come from its training part.
        n_shots: see `competence`, also for all that follows.
        template: how prompts are written.
        instruction: in front of them.
        seed: of the demonstrations.
        folder: keep what is measured there.

    Raises:
        LensFVError: the model answers none of the queries.
    """
    if queries == "all":
        return Asked(tuple(range(len(items))), {})
    prompts = {"n_shots": n_shots, "template": template, "instruction": instruction, "seed": seed}
    right = competence(model, task, split=split, items=items, folder=folder, **prompts).right
    kept = tuple(right.nonzero()[:, 0].tolist())
    if not kept:
        raise LensFVError(
            f"ask what {model.name} answers of {task.name}: after {n_shots} demonstrations it answers none of {len(items)} "
            "queries; use queries='all', more demonstrations or an easier task"
        )
    return Asked(kept, {"queries": queries, "n_queries": len(kept), "n_items": len(items)})


def asked_facts(provenance: Provenance) -> dict[str, str]:
    """How many queries were kept, if not all: a line for `Artefact.summary`."""
    said = provenance.options
    return {"queries": f"{said['n_queries']} of {said['n_items']}, those answered"} if "queries" in said else {}
