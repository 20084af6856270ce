"""Commands that rank heads: rank, universal, classes, attributions."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

import lens_fv as fv
from lens_fv.cli.command import Options, OptionsOf, chosen, command
from lens_fv.cli.inputs import TASK, Loading, OutFile, TaskName, notes, open_model, queries_used
from lens_fv.cli.leaving import resumes_in
from lens_fv.cli.output import Printout, rows_of, table
from lens_fv.core.choices import Count, Natural, Positive, Seed
from lens_fv.core.files import file_name

if TYPE_CHECKING:
    from lens_fv.heads import HeadRanking, UniversalHeads

Source = Annotated[str, Parameter(help="Patched-in value: mean, zero, resample, or a ranking file that provides means.")]
Top = Annotated[Count, Parameter(help="Number of heads to print.")]
CORRECTION = "lens_fv.heads.effects:Effects.p_values"
Correcting = Annotated[Options, OptionsOf(CORRECTION)]


@command
def rank(
    *,
    loading: Loading,
    task: TaskName = TASK,
    options: Annotated[Options, OptionsOf("lens_fv:rank_heads", leave_out=("budget",))],
    source: Source = "mean",
    budget_mib: Positive | None = None,
    plan: bool = False,
    correcting: Correcting,
    top: Top = 10,
    out: OutFile = None,
) -> Printout:
    """Rank all attention heads by their indirect effect on a task.

    Writes the ranking to --out (default: TASK-ranking.safetensors).

    Args:
        budget_mib: Memory budget for activations in MiB; default: half of the free memory.
        plan: Print the estimated cost and stop; writes nothing.
    """
    the_task, options["source"] = fv.load_task(task), _source(source)
    if budget_mib is not None:
        options["budget"] = int(budget_mib * 2**20)
    model = open_model(**loading)
    if plan:
        ranking_plan = fv.heads.plan_ranking(model, the_task, **options)
        run = ranking_plan.run._asdict() | {"peak_bytes": ranking_plan.run.peak_bytes}
        return Printout({"model": model.name, "task": the_task.name, **ranking_plan._asdict(), "run": run}, str(ranking_plan))
    ranking = fv.rank_heads(model, the_task, **options, progress=True)
    path = ranking.save(out or Path(f"{file_name(the_task.name)}-ranking.safetensors"))
    payload = {"model": model.name, "task": the_task.name, "unit": ranking.unit, "baseline": float(ranking.baseline.mean())}
    return heads_printout(ranking, correcting, top, path, payload, title=f"{the_task.name} on {model.name}")


@command
def universal(
    *,
    loading: Loading,
    task: Sequence[str] | None = None,
    options: Annotated[Options, OptionsOf("lens_fv:universal_heads", leave_out=("foil", "budget"))],
    source: Source = "mean",
    correcting: Correcting,
    top: Top = 10,
    folder: Path = Path("universal-heads"),
    out: OutFile = None,
) -> Printout:
    """Rank heads on every task where the model beats a constant answer, and average their effects.

    Writes each task's accuracy and ranking to --folder and the average to --out (default: universal.safetensors in it).

    Args:
        task: Relation or file of pairs; repeatable; default: all built-in relations.
        folder: Folder of every task's accuracy and ranking; run again to resume.
    """
    tasks, options["source"] = [fv.load_task(name) for name in task or fv.list_tasks()], _source(source)
    model = open_model(**loading)
    resumes_in(folder)
    effects = fv.universal_heads(model, tasks, **options, folder=folder, progress=True)
    path = effects.save(out or folder / "universal.safetensors")
    rows = rows_of(effects.rows)
    title = f"{len(effects.kept)} tasks on {model.name}"
    payload = {"model": model.name, "unit": effects.unit, "tasks": rows}
    return heads_printout(effects, correcting, top, path, payload, table(rows, title="accuracy by task"), title=title)


@command
def classes(
    *,
    loading: Loading,
    task: TaskName = TASK,
    options: Annotated[Options, OptionsOf("lens_fv.heads:class_effects")],
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
    the_task, model = fv.load_task(task), open_model(**loading)
    options |= {"n_shots": n_shots, "n_clean": n_clean, "n_trials": n_trials}
    effects = fv.heads.class_effects(model, the_task, **options, progress=True)
    path = effects.save(out or Path(f"{file_name(the_task.name)}-classes.safetensors"))
    rows = rows_of(effects.top())
    payload = {
        "model": model.name,
        "task": the_task.name,
        "metric": effects.metric,
        "classes": list(effects.classes),
        "effects": rows,
        "file": str(path),
    }
    title = f"{the_task.name} on {model.name}: {effects.metric} of the answer"
    return Printout(payload, table(rows[:top], title=title), f"written to {path}")


@command
def attributions(
    ranking: Annotated[Path, Parameter(help="Ranking file written by `rank`.")],
    *,
    loading: Loading,
    task: TaskName = TASK,
    seed: Seed | None = None,
    out: OutFile = None,
) -> Printout:
    """Compare attribution patching and direct logit attribution (TransformerLens) with a ranking's exact effects.

    Writes the comparison to --out (default: TASK-attributions.safetensors).

    Args:
        seed: Seed of the split; default: the ranking's own.
    """
    the_task, exact = fv.load_task(task), fv.heads.HeadRanking.load(ranking)
    split = None if seed is None else fv.split_pairs(the_task, seed=seed)
    comparison = fv.heads.compare_attributions(open_model(**loading), the_task, exact, split=split, progress=True)
    path = comparison.save(out or Path(f"{file_name(the_task.name)}-attributions.safetensors"))
    scores: list[dict[str, Any]] = []
    for score in ("attribution", "direct"):
        spearman, kendall = (comparison.correlation(score, coefficient=name) for name in ("spearman", "kendall"))
        shared = comparison.overlap(score, min(10, comparison.exact[0].numel()))
        scores.append(
            {"score": score, "spearman": spearman._asdict(), "kendall": kendall._asdict(), "overlap": rows_of([shared])[0]}
        )
    model = comparison.provenance.model
    payload = {"model": model, "task": the_task.name, "metric": comparison.metric, "scores": scores, "file": str(path)}
    return Printout(payload, repr(comparison), f"written to {path}")


def heads_printout(
    effects: "HeadRanking | UniversalHeads",
    correcting: Options,
    top: int,
    path: Path,
    payload: dict[str, Any],
    *views: Any,
    title: str,
) -> Printout:
    """Add all heads with their p-values to the payload, and print the strongest after the other views."""
    corrected = effects.p_values(**correcting)
    heads = rows_of(head._asdict() | {"p_value": float(corrected[head.layer, head.head])} for head in effects.top())
    options = effects.provenance.options
    enough = len(effects.effects) >= 4
    correction = chosen(correcting, CORRECTION, "correction")
    payload |= {
        "metric": effects.metric,
        "queries": queries_used(options),
        "correction": correction,
        "heads": heads,
        "reliability": rows_of([effects.reliability(k=min(10, effects.mean.numel()))])[0] if enough else None,
        "file": str(path),
    }
    title = f"{title}: {effects.metric} of the answer; p-values corrected by {correction}"
    return Printout(payload, *views, table(heads[:top], title=title), *notes(options, path))


def _source(name: str) -> Any:
    return name if name in ("mean", "zero", "resample") else fv.heads.HeadRanking.load(name)


COMMANDS = (rank, universal, classes, attributions)
