"""Evaluation of vectors on the test split, with controls."""

from collections.abc import Collection, Mapping, Sequence
from itertools import chain

import torch

from lens_fv.core.artefact import Provenance
from lens_fv.core.choices import Count, Natural, Seed, checked
from lens_fv.errors import LensFVError
from lens_fv.evaluation.results import Evaluation, PromptKind
from lens_fv.heads.competence import CompetenceConfig, Queries, choose_queries
from lens_fv.model.lens_model import LensModel
from lens_fv.patching import AnswerScores, Edit, score_alike, score_answers
from lens_fv.tasks import (
    TODD,
    Pair,
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

Intervention = FunctionVector | SoftPrompt | Adapter


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
        model: The model.
        task: The task.
        vectors: Vectors by condition name ("extracted", "tuned", ...); also accepts a soft prompt, an adapter, or a tuple of
            vectors injected together. The random control has the norm and place of the last single vector.
        other: Another relation's vector, for the condition "other_relation".
        split: Split of the task; default: `split_pairs(task, seed=seed)`. k-shot demonstrations come from its training part.
        prompts: Prompts that vectors are added to: "zero_shot", or few-shot with "shuffled" labels.
        n_shots: Number of demonstrations in k-shot (and shuffled) prompts.
        same_shots: Use the same demonstrations in all k-shot prompts and run them once. This is several times faster, but all
            items depend on a single draw.
        max_items: Maximum number of test pairs; default: all.
        queries: "all", or those "answered" after `n_shots` demonstrations (Todd et al. 2024); see `choose_queries`. With
            "answered", k-shot prompting has a first-token accuracy of 1 by construction, unless `same_shots` changes the
            demonstrations.
        template: Prompt template.
        seed: Seed of the split, the demonstrations and the random vector.
        force: Apply vectors even if their provenance does not match.
        progress: Draw a progress bar.

    Raises:
        LensFVError: no test items or none answered, a vector of another model, or a vector named like a control.

    Example:
        >>> vector = lens_fv.tune(model, task, n_pairs=4, steps=2, layers=1)
        >>> evaluation = lens_fv.evaluate(model, task, {'tuned': vector}, n_shots=2, max_items=4)
        >>> evaluation.conditions
        ('none', 'k_shot', 'tuned', 'random')
    """
    conditions = {name: vector if isinstance(vector, tuple) else (vector,) for name, vector in (vectors or {}).items()}
    split, items = evaluation_items(task, conditions, ("none", "k_shot", "random", "other_relation"), split, max_items, seed)
    single = [vector for vector in (vectors or {}).values() if isinstance(vector, FunctionVector)]
    if single:
        conditions["random"] = (random_like(single[-1], seed=seed),)
    if other is not None:
        conditions["other_relation"] = (other,)
    for vector in chain(*conditions.values()):
        if not force:
            vector.provenance.check(model)
    shots = build_prompts(items, split.train, n_shots=n_shots, template=template, seed=seed)
    if same_shots:  # no training pair states the fact of a test pair
        shots = [few_shot(pair, shots[0].demonstrations, template=template) for pair in items]
    if prompts == "zero_shot":
        plain = [zero_shot(pair, template=template) for pair in items]
    else:
        plain = build_prompts(items, split.train, n_shots=n_shots, template=template, shuffle="permutation", seed=seed)
    competence_options = CompetenceConfig(split=split, items=items, n_shots=n_shots, template=template, seed=seed)
    chosen = choose_queries(model, task, queries, competence_options)
    encoded, encoded_shots = encode_prompts(model, chosen.of(plain)), encode_prompts(model, chosen.of(shots))
    edits: dict[str, list[Edit]] = {"none": []}
    columns: dict[str, AnswerScores] = {}
    for name, interventions in conditions.items():
        for intervention in interventions:
            if isinstance(intervention, FunctionVector):
                edits.setdefault(name, []).extend(intervention.edits())
            else:
                what = f"{task.name}: {name}"
                columns[name] = intervention.score(model, encoded, what=what, force=force, progress=progress)
    scores = score_answers(model, encoded, list(edits.values()), what=f"{task.name}: vectors", progress=progress)
    for i, name in enumerate(edits):
        columns[name] = AnswerScores(*(tensor[:, i : i + 1] for tensor in scores))
    if same_shots:
        columns["k_shot"] = score_alike(model, encoded_shots)
    else:
        what = f"{task.name}: {n_shots} shots"
        columns["k_shot"] = score_answers(model, encoded_shots, [[]], what=what, progress=progress)
    names = ("none", "k_shot", *conditions)
    joined = AnswerScores(*(torch.cat(tensors, 1) for tensors in zip(*(columns[name] for name in names), strict=True)))
    provenance = Provenance.of(
        model,
        task=task.name,
        task_hash=task.fingerprint,
        prompts=[prompt.tokens for prompt in (*encoded, *encoded_shots)],
        seed=seed,
        method="evaluation",
        options={"n_shots": n_shots, "same_shots": same_shots, "prompts": prompts, **chosen.recorded},
    )
    return Evaluation(provenance=provenance, conditions=names, prompts=prompts, **joined._asdict())


def evaluation_items(
    task: Task, names: Collection[str], controls: Sequence[str], split: Split | None, max_items: int | None, seed: int
) -> tuple[Split, tuple[Pair, ...]]:
    """Return the split and the test pairs to evaluate on, after a check that no condition is named like a control."""
    reserved = [name for name in names if name in controls]
    if reserved:
        raise LensFVError(f"evaluate a vector named {reserved[0]!r}: that names a control; choose another name")
    split = split or split_pairs(task, seed=seed)
    items = split.test[:max_items]
    if not items:
        raise LensFVError(f"evaluate {task.name}: its test split is empty; it needs more pairs")
    return split, items
