"""Head rankings for tasks shown by demonstrations."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from lens_fv.core.choices import Count, Natural, NonNegative, Seed, checked
from lens_fv.errors import LensFVError
from lens_fv.heads.competence import Queries, choose_queries
from lens_fv.heads.corruptions import Corruption, contrast
from lens_fv.heads.effects import Unit
from lens_fv.heads.indirect import Mode, alternatives
from lens_fv.heads.metrics import Metric
from lens_fv.heads.ranking import HeadRanking, rank_contrast
from lens_fv.heads.sources import Source
from lens_fv.model.lens_model import LensModel
from lens_fv.patching.check import Method
from lens_fv.tasks import TODD, PromptTemplate, Split, Task, split_pairs


@checked
def rank_heads(
    model: LensModel,
    task: Task,
    *,
    split: Split | None = None,
    n_shots: Natural = 10,
    n_clean: Count = 100,
    n_trials: Count = 25,
    queries: Queries = "all",
    metric: Metric = "prob",
    against: str | Mapping[str, str] | None = None,
    source: Source | HeadRanking = "mean",
    mode: Mode = "replace",
    corruption: Corruption = "permutation",
    instruction: str | None = None,
    other_instruction: str | None = None,
    noise: NonNegative = 3.0,
    unit: Unit = "head",
    template: PromptTemplate = TODD,
    seed: Seed = 0,
    method: Method = "auto",
    budget: Count | None = None,
    folder: str | Path | None = None,
    progress: bool = False,
    tick: Callable[[], None] | None = None,
) -> HeadRanking:
    """Rank all attention heads by causal mediation (Todd et al. 2024).

    For every head, its mean output over clean few-shot prompts replaces its output at the last token of prompts with
    shuffled labels. The indirect effect is the resulting change in the metric of the answer's first token. Effects are exact
    and computed for all heads at once.

    Args:
        model: Model to rank.
        task: Task; demonstrations come from its training split, queries from its validation split.
        split: Split of the task's pairs; default: `split_pairs(task, seed=seed)`.
        n_shots: Number of demonstrations per prompt.
        n_clean: Number of clean prompts to average over.
        n_trials: Number of corrupted prompts to test on.
        queries: Validation pairs used as queries in clean and corrupted prompts: "all", or those "answered" correctly after
            `n_shots` demonstrations (Todd et al. 2024); see `choose_queries`. Provenance records both counts.
        metric: Measure of the primary answer's first token: "prob" (Todd et al. 2024), "logprob", "logit", or "logit_diff",
            its logit minus that of the strongest wrong alternative. That is the likeliest token on the unpatched corrupted
            prompt that begins no acceptable answer; it is the same for all heads.
        against: The alternative for "logit_diff": one answer for all queries, or a mapping from query input to answer.
        source: Output to patch in: "mean" over the clean prompts, "zero", "resample" (the head's output on one other clean
            prompt, drawn for each trial), the means of another task's ranking, or `head_means` of any other prompts.
        mode: "replace" the head's output (Todd et al. 2024) or "add" to it (instruction vectors: Jiang et al. 2024).
        corruption: How the corrupted prompts differ from clean ones; see `contrast`.
        instruction: Text before the clean prompts, and before the corrupted ones unless the corruption is "instruction".
        other_instruction: Text before the corrupted prompts for the corruption "instruction"; default: none.
        noise: Standard deviation for the corruption "noise", in standard deviations of the embeddings.
        unit: Unit to patch: "head", or "group" (all query heads that share keys and values, patched together).
        template: Prompt template.
        seed: Seed of prompts, random draws and bootstrap.
        method: See `run_branches`.
        budget: See `run_branches`; `plan_ranking` shows what a run needs.
        folder: Folder to store the ranking in; a stored ranking of the same settings is loaded instead of recomputed.
        progress: Show a progress bar.
        tick: Called after each of the `n_clean` + `n_trials` prompts, for a custom progress bar.

    Raises:
        LensFVError: the model has no heads, the task has too few pairs, a prompt exceeds the context, the corruption changes
            nothing, no query is answered, no head has any effect, or the budget is smaller than one row.

    Example:
        >>> ranking = lens_fv.rank_heads(model, task, n_shots=2, n_clean=4, n_trials=3)
        >>> len(ranking.top(3))
        3
    """
    if not model.attention_layers:
        raise LensFVError(f"rank heads of {model.name}: it {model.no_heads()}")
    split = split or split_pairs(task, seed=seed)
    asked = choose_queries(
        model,
        task,
        split.validation,
        queries,
        split=split,
        n_shots=n_shots,
        template=template,
        instruction=instruction,
        seed=seed,
        folder=folder,
    )
    split = replace(split, validation=asked.of(split.validation))
    made = contrast(
        model,
        split,
        corruption,
        n_shots=n_shots,
        n_clean=n_clean,
        n_trials=n_trials,
        template=template,
        instruction=instruction,
        other_instruction=other_instruction,
        noise=noise,
        seed=seed,
    )
    if against is not None and metric != "logit_diff":
        raise LensFVError(f'rank heads by {metric} against {against!r}: only metric="logit_diff" compares')
    wrong = None if against is None else alternatives(model, made.queries, against, template)
    return rank_contrast(
        model,
        task,
        made,
        options={
            "n_shots": n_shots,
            "n_clean": n_clean,
            "n_trials": n_trials,
            "against": {q.input: against[q.input] for q in made.queries} if isinstance(against, Mapping) else against,
            "corruption": corruption,
            "instruction": instruction,
            "other_instruction": other_instruction,
            "noise": noise if corruption == "noise" else None,
            **asked.noted,
        },
        metric=metric,
        wrong=wrong,
        source=source,
        mode=mode,
        unit=unit,
        seed=seed,
        method=method,
        budget=budget,
        folder=folder,
        progress=progress,
        tick=tick,
    )
