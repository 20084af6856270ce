"""Does a vector work, and beside what?"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_fv.core.artefact import Artefact, Provenance
from lens_fv.core.choices import Count, Natural, Seed, checked
from lens_fv.core.statistics import bootstrap_interval, wilson_interval
from lens_fv.errors import LensFVError
from lens_fv.heads.competence import Queries, asked_facts, choose_queries
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

Kind = FunctionVector | SoftPrompt | Adapter
PromptKind = Literal["zero_shot", "shuffled"]


class Result(NamedTuple):
    """One condition on the test split.

    Attributes:
        condition: "none", "k_shot", "random", "other_relation" or the name a vector was given.
        top1: share of items whose likeliest first token begins an acceptable answer; `low`, `high`: its Wilson interval.
        n: items.
        top3: the same among the three likeliest.
        full: share of items for which greedy decoding writes an acceptable answer to its end.
        logprob_per_answer: mean log-probability of the whole (best acceptable) answer, in nats; `logprob_low`, `logprob_high`:
            bootstrap. Longer answers have less; analogies have `logprob_per_token`.
    """

    condition: str
    top1: float
    low: float
    high: float
    n: int
    top3: float
    full: float
    logprob_per_answer: float
    logprob_low: float
    logprob_high: float


@checked
@dataclass(frozen=True, repr=False, eq=False)
class Evaluation(Artefact):
    """What every condition does to every test item.

    Attributes:
        conditions: their names, in the order of the last axis.
        prompts: "zero_shot" or "shuffled" (few-shot prompts whose labels are permuted); k-shot prompting always sees clean
            labels.
        top1, top3, full, logprob: see `AnswerScores`.
    """

    conditions: tuple[str, ...]
    prompts: PromptKind
    top1: Bool[Tensor, "items conditions"]
    top3: Bool[Tensor, "items conditions"]
    full: Bool[Tensor, "items conditions"]
    logprob: Float[Tensor, "items conditions"]

    @property
    def results(self) -> list[Result]:
        """One row a condition."""
        return [self[c] for c in self.conditions]

    def __getitem__(self, condition: str) -> Result:
        """The row of one condition."""
        i, n = self.conditions.index(condition), len(self.top1)
        hits = int(self.top1[:, i].sum())
        low, high = wilson_interval(hits, n)
        logprobs: list[float] = self.logprob[:, i].tolist()
        return Result(
            condition,
            hits / n,
            low,
            high,
            n,
            float(self.top3[:, i].float().mean()),
            float(self.full[:, i].float().mean()),
            sum(logprobs) / n,
            *bootstrap_interval(logprobs, seed=self.provenance.seed),
        )

    def summary(self) -> dict[str, str]:
        """See `Artefact.summary`."""
        rows = {
            r.condition: f"top-1 {r.top1:.2f} [{r.low:.2f}, {r.high:.2f}], whole {r.full:.2f}, "
            f"log-prob an answer {r.logprob_per_answer:.2f}"
            for r in self.results
        }
        items = {"test items": str(len(self.top1))} | asked_facts(self.provenance)
        return super().summary() | {"prompts": self.prompts} | items | rows


@checked
def evaluate(
    model: LensModel,
    task: Task,
    vectors: Mapping[str, Kind | tuple[FunctionVector, ...]] | None = None,
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
    """Score vectors on the test split, always beside no vector, k-shot prompting and a random vector of the same norm.

    Args:
        model: the model.
        task: the task.
        vectors: by the name of their condition ("extracted", "tuned", ...); a soft prompt or an adapter will do as well, or
            several vectors that go in together. The random control takes the norm and the place of the last one that is a
            single vector.
        other: another relation's vector: the condition "other_relation".
        split: default: `split_pairs(task, seed=seed)`. k-shot demonstrations come from its training part.
        prompts: what the vectors are added to: zero-shot prompts, or few-shot prompts with shuffled labels.
        n_shots: demonstrations of the k-shot (and shuffled) prompts.
        same_shots: show all k-shot prompts the same demonstrations, which then run once: several times faster, but the items
            share the luck of one draw.
        max_items: score only so many test pairs.
        queries: "all" of them, or those "answered" after `n_shots` demonstrations (Todd et al. 2024); see `choose_queries`.
            k-shot prompting then has a first-token accuracy of 1 by construction, unless `same_shots` shows it others.
        template: how prompts are written.
        seed: of the demonstrations and of the random vector.
        force: apply vectors though their provenance does not match.
        progress: draw a progress bar.

    Raises:
        LensFVError: no test items or none that is answered, a vector of another model, or one named like a control.
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
    if same_shots:  # no pair of the training part gives another part's away
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
        options={"n_shots": n_shots, "same_shots": same_shots, "prompts": prompts, **asked.noted},
    )
    return Evaluation(provenance=provenance, conditions=names, prompts=prompts, **joined._asdict())


def _column(scores: AnswerScores, at: int) -> AnswerScores:
    return AnswerScores(*(each[:, at : at + 1] for each in scores))
