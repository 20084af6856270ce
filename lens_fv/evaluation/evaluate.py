"""Evaluation of vectors on the test split, with controls."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_fv.core.artefact import Artefact, Provenance
from lens_fv.core.choices import Count, Natural, Seed, checked
from lens_fv.core.statistics import Estimate, estimate, proportion
from lens_fv.core.tables import data_frame
from lens_fv.errors import LensFVError
from lens_fv.heads.competence import Queries, choose_queries, queries_summary
from lens_fv.model.lens_model import LensModel
from lens_fv.patching import AnswerScores, Edit, score_alike, score_answers
from lens_fv.tasks import (
    TODD,
    PromptTemplate,
    Split,
    Task,
    build_prompts,
    encode_prompts,
    few_shot,
    split_pairs,
    zero_shot,
)
from lens_fv.vectors import FunctionVector, random_like
from lens_fv.vectors.baselines import Adapter, SoftPrompt

if TYPE_CHECKING:
    import pandas as pd


Intervention = FunctionVector | SoftPrompt | Adapter
PromptKind = Literal["zero_shot", "shuffled"]


class Result(NamedTuple):
    """Scores of one condition on the test split.

    Attributes:
        condition: "none", "k_shot", "random", "other_relation" or a vector's name.
        top1: share of items where the most likely token begins an acceptable answer; with Wilson's interval, like the next two.
        top3: the same for the three most likely tokens.
        exact_match: share of items where greedy decoding produces a complete acceptable answer.
        logprob_per_answer: mean log-probability of the whole (best acceptable) answer, in nats, with its bootstrap interval.
            Longer answers score lower; analogies use `logprob_per_token`.
    """

    condition: str
    top1: Estimate
    top3: Estimate
    exact_match: Estimate
    logprob_per_answer: Estimate


@checked
@dataclass(frozen=True, repr=False, eq=False)
class Evaluation(Artefact):
    """Scores of every test item in every condition.

    Attributes:
        conditions: names of the conditions, in the order of the last axis.
        prompts: "zero_shot" or "shuffled" (few-shot prompts with permuted labels); k-shot prompting always has clean
            labels.
        top1, top3, exact_match, logprob: see `AnswerScores`.
    """

    conditions: tuple[str, ...]
    prompts: PromptKind
    top1: Bool[Tensor, "items conditions"]
    top3: Bool[Tensor, "items conditions"]
    exact_match: Bool[Tensor, "items conditions"]
    logprob: Float[Tensor, "items conditions"]

    @property
    def results(self) -> list[Result]:
        """Results, one per condition."""
        return [self[c] for c in self.conditions]

    def __getitem__(self, condition: str) -> Result:
        """Return the result of one condition."""
        i, n = self.conditions.index(condition), len(self.top1)
        shares = (proportion(int(right[:, i].sum()), n) for right in (self.top1, self.top3, self.exact_match))
        return Result(condition, *shares, logprob_per_answer=estimate(self.logprob[:, i].tolist(), seed=self.provenance.seed))

    @checked
    def to_dataframe(self, *, by: Literal["condition", "item"] = "condition") -> "pd.DataFrame":
        """One row per condition, with intervals (see `Result`), or one per item and condition, with the item's own scores."""
        if by == "condition":
            return data_frame(self.results)
        return data_frame(
            {
                "item": item,
                "condition": condition,
                "top1": bool(self.top1[item, i]),
                "top3": bool(self.top3[item, i]),
                "exact_match": bool(self.exact_match[item, i]),
                "logprob_per_answer": float(self.logprob[item, i]),
            }
            for item in range(len(self.top1))
            for i, condition in enumerate(self.conditions)
        )

    def summary(self) -> dict[str, str]:
        """See `Artefact.summary`."""
        rows = {
            r.condition: f"top-1 {r.top1}, exact match {r.exact_match.mean:.2f}, "
            f"log-prob per answer {r.logprob_per_answer.mean:.2f} nats"
            for r in self.results
        }
        items = {"test items": str(len(self.top1))} | queries_summary(self.provenance)
        return super().summary() | {"prompts": self.prompts} | items | rows


@checked
def evaluate(
    model: LensModel,
    task: Task,
    vectors: Mapping[str, Intervention | tuple[FunctionVector, ...]] | None = None,
    *,
    other: FunctionVector | None = None,
    split: Split | None = None,
    prompts: PromptKind = "zero_shot",
    n_shots: Natural = 10,
    same_shots: bool = False,
    max_items: Count | None = None,
    queries: Queries = "all",
    template: PromptTemplate = TODD,
    seed: Seed = 0,
    force: bool = False,
    progress: bool = False,
) -> Evaluation:
    """Score vectors on the test split, with controls: no vector, k-shot prompting, and a random vector of equal norm.

    Args:
        model: the model.
        task: the task.
        vectors: vectors by condition name ("extracted", "tuned", ...); also accepts a soft prompt, an adapter, or a tuple of
            vectors injected together. The random control has the norm and place of the last single vector.
        other: another relation's vector, for the condition "other_relation".
        split: split of the task; default: `split_pairs(task, seed=seed)`. k-shot demonstrations come from its training part.
        prompts: prompts that vectors are added to: "zero_shot", or few-shot with "shuffled" labels.
        n_shots: number of demonstrations in k-shot (and shuffled) prompts.
        same_shots: use the same demonstrations in all k-shot prompts and run them once. This is several times faster, but all
            items depend on a single draw.
        max_items: maximum number of test pairs; default: all.
        queries: "all", or those "answered" after `n_shots` demonstrations (Todd et al. 2024); see `choose_queries`. With
            "answered", k-shot prompting has a first-token accuracy of 1 by construction, unless `same_shots` changes the
            demonstrations.
        template: prompt template.
        seed: seed of the split, the demonstrations and the random vector.
        force: apply vectors even if their provenance does not match.
        progress: draw a progress bar.

    Raises:
        LensFVError: no test items or none answered, a vector of another model, or a vector named like a control.

    Example:
        >>> vector = lens_fv.tune(model, task, n_pairs=4, steps=2, layers=1)
        >>> found = lens_fv.evaluate(model, task, {'tuned': vector}, n_shots=2, max_items=4)
        >>> found.conditions
        ('none', 'k_shot', 'tuned', 'random')
    """
    vectors = dict(vectors or {})
    reserved = {"none", "k_shot", "random", "other_relation"} & vectors.keys()
    if reserved:
        raise LensFVError(f"evaluate a vector named {reserved.pop()!r}: that names a control; choose another name")
    split = split or split_pairs(task, seed=seed)
    items = split.test[:max_items]
    if not items:
        raise LensFVError(f"evaluate {task.name}: its test split is empty; it needs more pairs")
    conditions = dict(vectors)
    directions = [v for v in vectors.values() if isinstance(v, FunctionVector)]
    if directions:
        conditions["random"] = random_like(directions[-1], seed=seed)
    if other is not None:
        conditions["other_relation"] = other
    together = {name: kind if isinstance(kind, tuple) else (kind,) for name, kind in conditions.items()}
    for kind in chain(*together.values()):
        if not force:
            kind.provenance.check(model)
    shots = build_prompts(items, split.train, n_shots=n_shots, template=template, seed=seed)
    if same_shots:  # no training pair states the fact of a test pair
        shots = [few_shot(pair, shots[0].demonstrations, template=template) for pair in items]
    if prompts == "zero_shot":
        plain = [zero_shot(pair, template=template) for pair in items]
    else:
        plain = build_prompts(items, split.train, n_shots=n_shots, template=template, shuffle="permutation", seed=seed)
    asked = choose_queries(model, task, items, queries, split=split, n_shots=n_shots, template=template, seed=seed)
    encoded, encoded_shots = (encode_prompts(model, asked.of(each)) for each in (plain, shots))
    added: dict[str, list[Edit]] = {}
    columns: dict[str, AnswerScores] = {}
    for name, kinds in together.items():
        for kind in kinds:
            if isinstance(kind, FunctionVector):
                added.setdefault(name, []).extend(kind.edits())
            else:
                about = f"{task.name}: {name}"
                columns[name] = kind.score(model, encoded, what=about, force=force, progress=progress)
    scores = score_answers(model, encoded, [[], *added.values()], what=f"{task.name}: vectors", progress=progress)
    if same_shots:
        k_shot = score_alike(model, encoded_shots)
    else:
        k_shot = score_answers(model, encoded_shots, [[]], what=f"{task.name}: {n_shots} shots", progress=progress)
    columns |= {"none": _column(scores, 0), "k_shot": k_shot}
    columns |= {name: _column(scores, i) for i, name in enumerate(added, 1)}
    names = ("none", "k_shot", *conditions)
    joined = AnswerScores(*(torch.cat(each, 1) for each in zip(*(columns[name] for name in names), strict=True)))
    provenance = Provenance.of(
        model,
        task=task.name,
        task_hash=task.fingerprint,
        prompts=[p.tokens for p in (*encoded, *encoded_shots)],
        seed=seed,
        method="evaluation",
        options={"n_shots": n_shots, "same_shots": same_shots, "prompts": prompts, **asked.recorded},
    )
    return Evaluation(provenance=provenance, conditions=names, prompts=prompts, **joined._asdict())


def _column(scores: AnswerScores, at: int) -> AnswerScores:
    return AnswerScores(*(each[:, at : at + 1] for each in scores))
