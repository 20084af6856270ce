"""Commands that rank heads: rank, universal, classes, attributions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import lens_fv as fv
from lens_fv.cli.command import Options, OptionsOf, chosen, command
from lens_fv.cli.inputs import Loading, OutFile, OwnTask, RankingInput, TaskInput, open_model, own_task
from lens_fv.cli.leaving import resumes_in
from lens_fv.cli.output import Printout, artefact_printout, queries_used, table
from lens_fv.core.choices import Count, Natural, Positive, Seed
from lens_fv.core.tables import table_rows

Source = Annotated[str, "Patched-in value: mean, zero, resample, or a ranking file that provides means."]
BudgetMib = Annotated[Positive, "Memory budget for activations in MiB; default: half of the free memory."] | None
Top = Annotated[Count, "Number of heads to print."]
CORRECTION = "lens_fv.heads.ranking:Effects.p_values"
Correcting = Annotated[Options, OptionsOf(CORRECTION)]
OVERLAP = 10
"""Number of strongest heads whose overlap is counted."""


@command
def rank(
    *,
    loading: Loading,
    task: TaskInput,
    options: Annotated[Options, OptionsOf("lens_fv:rank_heads", leave_out=("budget",))],
    source: Source = "mean",
    budget_mib: BudgetMib = None,
    plan: Annotated[bool, "Print the estimated cost and stop; writes nothing."] = False,
    correcting: Correcting,
    top: Top = 10,
    out: OutFile = None,
) -> Printout:
    """Rank all attention heads by their indirect effect on a task.

    Writes the ranking to --out (default: TASK-ranking.safetensors).
    """
    options |= {"source": _source(source), "budget": _bytes(budget_mib)}
    model = open_model(**loading)
    if plan:
        ranking_plan = fv.heads.plan_ranking(model, task, **options)
        run = ranking_plan.run._asdict() | {"peak_bytes": ranking_plan.run.peak_bytes}
        return Printout({"model": model.name, "task": task.name, **ranking_plan._asdict(), "run": run}, str(ranking_plan))
    ranking = fv.rank_heads(model, task, **options, progress=True)
    values = {"unit": ranking.unit, "baseline": float(ranking.baseline.mean())}
    return heads_printout(ranking, correcting, top, out=out, ending="ranking", **values)


@command
def universal(
    *,
    loading: Loading,
    task: Annotated[Sequence[TaskInput], "Relation or file of pairs; repeatable; default: all built-in relations."] = (),
    options: Annotated[Options, OptionsOf("lens_fv:universal_heads", leave_out=("foil", "budget"))],
    source: Source = "mean",
    correcting: Correcting,
    top: Top = 10,
    folder: Annotated[Path, "Folder of every task's accuracy and ranking; run again to resume."] = Path("universal-heads"),
    out: OutFile = None,
) -> Printout:
    """Rank heads on every task where the model beats a constant answer, and average their effects.

    Writes each task's accuracy and ranking to --folder and the average to --out (default: universal.safetensors in it).
    """
    tasks = task or [fv.load_task(name) for name in fv.list_tasks()]
    options["source"] = _source(source)
    model = open_model(**loading)
    resumes_in(folder)
    effects = fv.universal_heads(model, tasks, **options, folder=folder, progress=True)
    rows = table_rows(effects.rows)
    values = {"task": f"{len(effects.kept)} tasks", "unit": effects.unit, "tasks": rows}
    by_task = table(rows, title="accuracy by task")
    return heads_printout(effects, correcting, top, by_task, out=out or folder / "universal.safetensors", **values)


@command
def classes(
    *,
    loading: Loading,
    task: TaskInput,
    options: Annotated[Options, OptionsOf("lens_fv.heads:class_effects", leave_out=("budget",))],
    budget_mib: BudgetMib = None,
    n_shots: Natural = 5,
    n_clean: Count = 25,
    n_trials: Count = 3,
    top: Top = 10,
    out: OutFile = None,
) -> Printout:
    """Measure every head's indirect effect at each token class: labels, separators, the query, ...

    Writes the effects to --out (default: TASK-classes.safetensors). Ten classes mean ten times as many patches, most of
    them near the start of the prompt. It takes many times longer than rank, so its defaults are smaller.
    """
    options |= {"n_shots": n_shots, "n_clean": n_clean, "n_trials": n_trials, "budget": _bytes(budget_mib)}
    effects = fv.heads.class_effects(open_model(**loading), task, **options, progress=True)
    rows = table_rows(effects.top())
    title = f"{task.name} on {effects.provenance.model}: {effects.metric} of the answer"
    values = {"metric": effects.metric, "classes": list(effects.classes), "effects": rows}
    return artefact_printout(effects, table(rows[:top], title=title), out=out, ending="classes", **values)


@command
def attributions(
    ranking: Annotated[RankingInput, "Ranking file written by `lens-fv rank`."],
    *,
    loading: Loading,
    task: OwnTask = None,
    seed: Annotated[Seed | None, "Seed of the split; default: the ranking's own."] = None,
    out: OutFile = None,
) -> Printout:
    """Compare attribution patching and direct logit attribution (TransformerLens) with a ranking's exact effects.

    Writes the comparison to --out (default: TASK-attributions.safetensors).
    """
    task = own_task(task, ranking)
    split = None if seed is None else fv.split_pairs(task, seed=seed)
    comparison = fv.heads.compare_attributions(open_model(**loading), task, ranking, split=split, progress=True)
    scores: list[dict[str, Any]] = []
    for score in ("attribution", "direct"):
        correlations = {name: comparison.correlation(score, coefficient=name) for name in ("spearman", "kendall")}
        overlap = comparison.overlap(score, min(OVERLAP, comparison.exact[0].numel()))
        scores.append({"score": score, **correlations, "overlap": overlap})
    return artefact_printout(comparison, out=out, ending="attributions", metric=comparison.metric, scores=scores)


def heads_printout(
    effects: "fv.heads.HeadRanking | fv.heads.UniversalHeads",
    correcting: Options,
    top: int,
    *views: Any,
    task: str | None = None,
    against: str = "",
    **values: Any,
) -> Printout:
    """Save effects of heads, describe all heads with their p-values, and print the strongest after the other views."""
    p_values = effects.p_values(**correcting)
    heads = table_rows(head._asdict() | {"p_value": float(p_values[head.layer, head.head])} for head in effects.top())
    enough = len(effects.effects) >= 4
    correction = chosen(correcting, CORRECTION, "correction")
    reliability = effects.reliability(k=min(OVERLAP, effects.mean.numel())) if enough else None
    title = f"{task or effects.provenance.task} on {effects.provenance.model}: {against}{effects.metric} of the answer"
    view = table(heads[:top], title=f"{title}; p-values corrected by {correction}")
    values |= {"metric": effects.metric, "queries": queries_used(effects), "correction": correction, "heads": heads}
    return artefact_printout(effects, *views, view, reliability=reliability, **values)


def _bytes(mebibytes: float | None) -> int | None:
    return None if mebibytes is None else int(mebibytes * 2**20)


def _source(name: str) -> Any:
    return name if name in ("mean", "zero", "resample") else fv.heads.HeadRanking.load(name)
