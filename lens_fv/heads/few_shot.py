"""Which heads carry a task that demonstrations show."""

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

    For every head: its mean output over clean few-shot prompts is put in its place at the last token of prompts whose
    labels are shuffled; the indirect effect is what that does to the answer's first token. Exact, for all heads at once.

    Args:
        model: the model.
        task: the task; demonstrations come from its training split, queries from its validation split.
        split: default: `split_pairs(task, seed=seed)`.
        n_shots: demonstrations a prompt.
        n_clean: clean prompts to average over.
        n_trials: corrupted prompts to test on.
        queries: "all" of the validation split, or those "answered" after as many demonstrations (Todd et al. 2024), in clean
            and corrupted prompts alike; see `choose_queries`. Provenance has both counts.
        metric: of the primary answer's first token: "prob" (Todd et al. 2024), "logprob", "logit", or "logit_diff": its logit
            minus that of the strongest wrong alternative: the token that the corrupted prompt, no head patched, makes the
            likeliest of all that begin no acceptable answer; the same for all heads.
        against: name that alternative: an answer to compare with at every query, or one by the query's input.
        source: what is put in: "mean" over the clean prompts, "zero", "resample" (what the head says in one other clean
            prompt, drawn anew for every trial), the means of another task's ranking, or `head_means` of any other prompts.
        mode: "replace" the head's output by it (Todd et al. 2024) or "add" it (instruction vectors: Jiang et al. 2024).
        corruption: what the corrupted prompts lack; see `contrast`, also for `instruction`, `other_instruction`, `noise`.
        instruction: in front of clean (and, but for the corruption "instruction", corrupted) prompts.
        other_instruction: in front of the corrupted prompts of the corruption "instruction"; default: nothing.
        noise: standard deviation for the corruption "noise", in standard deviations of the embeddings.
        unit: "head", or "group": all query heads that share their keys and values, patched together.
        template: how prompts are written.
        seed: of prompts, draws and bootstrap.
        method: see `run_branches`.
        budget: see `run_branches`; `plan_ranking` says what there is to spend it on.
        folder: keep the ranking there; one that was made in the same way is loaded, not made again.
        progress: draw a progress bar.
        tick: called after each of the `n_clean` + `n_trials` prompts, for a bar of one's own.

    Raises:
        LensFVError: a model without heads, too few pairs, a prompt longer than the context, a corruption that changes nothing,
            no query that is answered, no head that changes anything, or a budget smaller than one row.
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
