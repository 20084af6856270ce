"""Function vectors beside everything else that few pairs can be made into."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, Literal, get_args

from lens_fv.core.choices import Count, Natural, Seed, checked, nearest
from lens_fv.errors import LensFVError
from lens_fv.evaluation.evaluate import Evaluation, Kind, evaluate
from lens_fv.heads import HeadRanking, choose_queries, rank_heads
from lens_fv.heads.competence import Queries
from lens_fv.model.lens_model import LensModel
from lens_fv.tasks import TODD, PromptTemplate, Task, split_pairs
from lens_fv.vectors import FunctionVector, extract, tune
from lens_fv.vectors.baselines import mean_state, task_state, train_adapter, train_head_weights, train_soft_prompt
from lens_fv.vectors.baselines.choice import likeliest
from lens_fv.vectors.baselines.states import SCALES

KindName = Literal[
    "extracted",
    "distributed",
    "mean_state",
    "mean_difference",
    "task_state",
    "head_weights",
    "tuned",
    "soft_prompt",
    "lora",
]
BASELINES: tuple[KindName, ...] = get_args(KindName)


@checked
def compare_baselines(
    model: LensModel,
    task: Task,
    *,
    kinds: Sequence[str] = BASELINES,
    pairs: Count = 20,
    ranking: HeadRanking | None = None,
    n_heads: Count = 10,
    n_shots: Natural = 10,
    n_clean: Count = 100,
    n_trials: Count = 25,
    steps: Count = 40,
    max_items: Count | None = None,
    queries: Queries = "all",
    template: PromptTemplate = TODD,
    seed: Seed = 0,
    progress: bool = False,
) -> Evaluation:
    """Make each kind from the same pairs, choose on the same validation pairs, and test all of them on the same test pairs.

    Beside no vector, k-shot prompting with demonstrations from the same pairs, and a random vector of the length and at the
    place of the last kind that is a vector:

    - "extracted": `extract`, its layer and scale chosen; "distributed": the same heads, each in its own layer, the scale
      chosen;
    - "mean_state", "mean_difference" (less the zero-shot mean): `mean_state`; "task_state": `task_state`;
    - "head_weights": `train_head_weights`; "tuned": `tune` from zero;
    - "soft_prompt": `train_soft_prompt`; "lora": `train_adapter`.

    Everything that is chosen, layers, scales, learning rates and steps, is chosen by the log-probability of the validation
    answers.

    Args:
        model: the model.
        task: the task.
        kinds: which, in the order of the evaluation.
        pairs: training pairs: all that demonstrations, means and training see. A ranking's queries are validation pairs.
        ranking: of this task; default: made here, on the same split.
        n_heads: of the extracted vector.
        n_shots: demonstrations a prompt.
        n_clean: clean prompts that means are taken over.
        n_trials: corrupted prompts of the ranking.
        steps: of all training.
        max_items: score only so many test pairs.
        queries: "all", or those "answered" after `n_shots` demonstrations: of the validation pairs, which the ranking asks and
            all choices are made on, and of the test pairs; see `choose_queries`. Provenance counts the test pairs.
        template: how prompts are written.
        seed: of the split, prompts and draws.
        progress: draw progress bars.

    Raises:
        LensFVError: an unknown kind or none, too few pairs for training or for the demonstrations, no query that is answered,
            and what the kinds raise.
    """
    unknown = [kind for kind in kinds if kind not in BASELINES]
    if unknown or not kinds:
        near = nearest(unknown[0], BASELINES) if unknown else ""
        raise LensFVError(f"compare kinds {', '.join(unknown) or '(none given)'}: choose from {', '.join(BASELINES)}{near}")
    if n_shots >= pairs:
        raise LensFVError(
            f"compare kinds on {pairs} pairs with {n_shots} shots: a query is no demonstration of its own; ask for at most "
            f"{pairs - 1} shots or give more pairs"
        )
    whole = split_pairs(task, seed=seed, n_train=pairs)
    written: dict[str, Any] = {"template": template, "seed": seed}
    asked = choose_queries(model, task, whole.validation, queries, split=whole, n_shots=n_shots, **written)
    split = replace(whole, validation=asked.of(whole.validation))
    shared = {**written, "split": split, "progress": progress}
    prompts = {"n_shots": n_shots, "n_prompts": n_clean}
    learning = {"pairs": len(split.train), "steps": steps}

    @cache
    def ranked() -> HeadRanking:
        ranks = {**shared, "split": whole, "queries": queries}  # it counts those that it leaves out
        return ranking or rank_heads(model, task, n_shots=n_shots, n_clean=n_clean, n_trials=n_trials, **ranks)

    @cache
    def from_heads() -> FunctionVector:
        return extract(model, task, ranked(), n_heads=n_heads, layer=0, split=split, template=template)

    def picked(vectors: list[FunctionVector]) -> FunctionVector:
        return likeliest(model, vectors, split, template, what=f"{task.name}: layer and scale", progress=progress)

    makers: dict[str, Callable[[], Kind]] = {
        "extracted": lambda: picked([from_heads().at(layer=at, scale=s) for at in range(model.n_layers) for s in SCALES]),
        "distributed": lambda: picked([from_heads().at(site="heads", scale=s) for s in SCALES]),
        "mean_state": lambda: mean_state(model, task, **prompts, **shared),
        "mean_difference": lambda: mean_state(model, task, minus="zero_shot", **prompts, **shared),
        "task_state": lambda: task_state(model, task, n_shots=n_shots, **shared),
        "head_weights": lambda: train_head_weights(model, task, means=ranked(), **learning, **shared),
        "tuned": lambda: tune(model, task, **learning, **shared),
        "soft_prompt": lambda: train_soft_prompt(model, task, **learning, **shared),
        "lora": lambda: train_adapter(model, task, **learning, **shared),
    }
    made: dict[str, Kind] = {kind: makers[kind]() for kind in dict.fromkeys(kinds)}
    return evaluate(
        model,
        task,
        made,
        split=split,
        n_shots=n_shots,
        max_items=max_items,
        queries=queries,
        template=template,
        seed=seed,
        progress=progress,
    )
