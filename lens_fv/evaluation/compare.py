"""Comparison of function vectors with baselines made from the same few pairs."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, Literal, get_args

from lens_fv.core.choices import Count, Natural, Seed, checked
from lens_fv.errors import LensFVError
from lens_fv.evaluation.evaluate import Intervention, evaluate
from lens_fv.evaluation.results import Evaluation
from lens_fv.heads import CompetenceConfig, HeadRanking, choose_queries, rank_heads
from lens_fv.heads.competence import Queries
from lens_fv.model.lens_model import LensModel
from lens_fv.tasks import TODD, PromptTemplate, Task, split_pairs
from lens_fv.vectors import FunctionVector, extract, tune
from lens_fv.vectors.baselines import mean_state, task_state, train_adapter, train_head_weights, train_soft_prompt
from lens_fv.vectors.examples import likeliest
from lens_fv.vectors.options import SCALES

BaselineName = Literal[
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
BASELINES: tuple[BaselineName, ...] = get_args(BaselineName)


@checked
def compare_baselines(
    model: LensModel,
    task: Task,
    *,
    baselines: Sequence[BaselineName] = BASELINES,
    n_pairs: Count = 20,
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
    """Make each baseline from the same pairs, select on the same validation pairs, and test on the same test pairs.

    Controls are no vector, k-shot prompting with demonstrations from the same pairs, and a random vector with the norm and
    place of the last baseline that is a vector. Baselines:

    - "extracted": `extract`, with selected layer and scale; "distributed": the same heads, each in its own layer, with
      selected scale;
    - "mean_state", "mean_difference" (minus the zero-shot mean): `mean_state`; "task_state": `task_state`;
    - "head_weights": `train_head_weights`; "tuned": `tune` from zero;
    - "soft_prompt": `train_soft_prompt`; "lora": `train_adapter`.

    Layers, scales, learning rates and steps are selected by the log-probability of the validation answers.

    Args:
        model: The model.
        task: The task.
        baselines: Baselines to compare, in the order of the evaluation; default: all.
        n_pairs: Number of training pairs, the only source of demonstrations, means and training. A ranking queries validation
            pairs.
        ranking: Head ranking for this task; default: made here on the same split.
        n_heads: Number of heads in the extracted vector.
        n_shots: Number of demonstrations per prompt.
        n_clean: Number of clean prompts for the means.
        n_trials: Number of corrupted prompts for the ranking.
        steps: Number of training steps.
        max_items: Maximum number of test pairs; default: all.
        queries: "all", or those "answered" after `n_shots` demonstrations. Applies to the validation pairs, used for ranking
            and selection, and to the test pairs; see `choose_queries`. Provenance counts the test pairs.
        template: Prompt template.
        seed: Seed of the split, prompts and random draws.
        progress: Draw progress bars.

    Raises:
        LensFVError: no baseline is given, there are too few pairs for training or demonstrations, no query is answered, or
            making one of the baselines raises.

    Example:
        >>> options = {'n_pairs': 8, 'n_shots': 2, 'n_clean': 2, 'n_trials': 2, 'n_heads': 2, 'steps': 2}
        >>> evaluation = lens_fv.compare_baselines(model, task, baselines=['extracted', 'mean_state', 'tuned'], **options)
        >>> [result.condition for result in evaluation.results]
        ['none', 'k_shot', 'extracted', 'mean_state', 'tuned', 'random']
    """
    if not baselines:
        raise LensFVError(f"compare 0 baselines: choose from {', '.join(BASELINES)}")
    if n_shots >= n_pairs:
        raise LensFVError(
            f"compare baselines on {n_pairs} pairs with {n_shots} shots: a query is no demonstration of its own; use at most "
            f"{n_pairs - 1} shots or give more pairs"
        )
    full_split = split_pairs(task, seed=seed, n_train=n_pairs)
    common: dict[str, Any] = {"template": template, "seed": seed}
    chosen = choose_queries(model, task, queries, CompetenceConfig(split=full_split, n_shots=n_shots, **common))
    split = replace(full_split, validation=chosen.of(full_split.validation))
    shared = {**common, "split": split, "progress": progress}
    prompts = {"n_shots": n_shots, "n_prompts": n_clean}
    training = {"n_pairs": len(split.train), "steps": steps}

    @cache
    def head_ranking() -> HeadRanking:
        options = {**shared, "split": full_split, "queries": queries}  # it counts the queries that it leaves out
        return ranking or rank_heads(model, task, n_shots=n_shots, n_clean=n_clean, n_trials=n_trials, **options)

    @cache
    def extracted() -> FunctionVector:
        return extract(model, task, head_ranking(), n_heads=n_heads, layer=0, split=split, template=template)

    def best(vectors: list[FunctionVector]) -> FunctionVector:
        return likeliest(model, vectors, split, template, context=f"{task.name}: layer and scale", progress=progress)

    makers: dict[str, Callable[[], Intervention]] = {
        "extracted": lambda: best([extracted().at(layer=at, scale=s) for at in range(model.n_layers) for s in SCALES]),
        "distributed": lambda: best([extracted().at(site="heads", scale=s) for s in SCALES]),
        "mean_state": lambda: mean_state(model, task, **prompts, **shared),
        "mean_difference": lambda: mean_state(model, task, subtract="zero_shot", **prompts, **shared),
        "task_state": lambda: task_state(model, task, n_shots=n_shots, **shared),
        "head_weights": lambda: train_head_weights(model, task, means=head_ranking(), **training, **shared),
        "tuned": lambda: tune(model, task, **training, **shared),
        "soft_prompt": lambda: train_soft_prompt(model, task, **training, **shared),
        "lora": lambda: train_adapter(model, task, **training, **shared),
    }
    vectors: dict[str, Intervention] = {name: makers[name]() for name in dict.fromkeys(baselines)}
    return evaluate(model, task, vectors, n_shots=n_shots, max_items=max_items, queries=queries, **shared)
