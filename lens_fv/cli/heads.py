"""Commands that rank heads: rank, universal."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from lens_fv.cli.leaving import goes_on_in
from lens_fv.cli.options import DEFAULT_MODEL, AsJson, Device, Dtype, ModelName, Seed, Shots, TaskName, emit, open_model
from lens_fv.core.files import file_name
from lens_fv.core.tables import table_row, table_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lens_fv.heads.effects import Effects

Clean = Annotated[int, typer.Option("--clean", min=1, help="Number of clean prompts over which head outputs are averaged.")]
Trials = Annotated[int, typer.Option("--trials", min=1, help="Number of corrupted prompts on which effects are measured.")]
Queries = Annotated[
    Literal["all", "answered"],
    typer.Option(help="Queries: all, or those the model answers after --shots demonstrations (Todd et al. 2024)."),
]
Out = Annotated[Path | None, typer.Option("--out", help="File to write; the default is named above.")]
Metric = Annotated[
    Literal["prob", "logprob", "logit", "logit_diff"], typer.Option(help="Effect metric, on the answer's first token.")
]
Foil = Annotated[
    str | None, typer.Option(help="Wrong answer for logit_diff; default: the likeliest wrong token of the corrupted prompt.")
]
Source = Annotated[str, typer.Option(help="Patched-in value: mean, zero, resample, or a ranking file that provides means.")]
Mode = Annotated[
    Literal["replace", "add"], typer.Option(help="How the value is patched: replace the head's output, or add to it.")
]
Corruption = Annotated[
    Literal["permutation", "derangement", "zero_shot", "instruction", "noise"],
    typer.Option(
        help="How prompts are corrupted: labels permuted or deranged, no demonstrations, another instruction, or noise."
    ),
]
Instruction = Annotated[str | None, typer.Option(help="Instruction placed before every prompt; default: none.")]
OtherInstruction = Annotated[
    str | None, typer.Option(help="Instruction used in corrupted prompts (--corruption instruction); default: none.")
]
Noise = Annotated[float, typer.Option(min=0, help="Noise level in standard deviations of the embeddings.")]
Unit = Annotated[
    Literal["head", "group"], typer.Option(help="Unit to patch: single heads, or groups of heads that share keys and values.")
]
Correction = Annotated[
    Literal["holm", "bh", "max", "none"],
    typer.Option(help="Correction of p-values for the number of heads: Holm, Benjamini-Hochberg, maximum statistic or none."),
]
Budget = Annotated[
    float | None, typer.Option(min=0, help="Memory budget for activations in MiB; default: half of the free memory.")
]
Top = Annotated[int, typer.Option(min=1, help="Number of heads to print.")]


def rank(
    model: ModelName = DEFAULT_MODEL,
    task: TaskName = "present-past",
    shots: Shots = 10,
    clean: Clean = 100,
    trials: Trials = 25,
    queries: Queries = "all",
    metric: Metric = "prob",
    foil: Foil = None,
    source: Source = "mean",
    mode: Mode = "replace",
    corruption: Corruption = "permutation",
    instruction: Instruction = None,
    other_instruction: OtherInstruction = None,
    noise: Noise = 3.0,
    unit: Unit = "head",
    correction: Correction = "holm",
    top: Top = 10,
    budget: Budget = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print the estimated cost and stop; writes nothing.")] = False,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    out: Out = None,
) -> None:
    """Rank all attention heads by their indirect effect on a task.

    Writes the ranking to --out (default: TASK-ranking.safetensors).
    """
    from lens_fv.heads import plan_ranking, rank_heads
    from lens_fv.tasks import load_task

    the_task, given = load_task(task), _source(source)
    lens = open_model(model, device, dtype)
    limit = None if budget is None else int(budget * 2**20)
    if plan:
        found = plan_ranking(
            lens,
            the_task,
            n_shots=shots,
            n_clean=clean,
            n_trials=trials,
            corruption=corruption,
            instruction=instruction,
            other_instruction=other_instruction,
            unit=unit,
            seed=seed,
            budget=limit,
        )
        run = found.run._asdict() | {"peak_bytes": found.run.peak_bytes}
        emit({"model": lens.name, "task": the_task.name, **found._asdict(), "run": run}, as_json, str(found))
        return
    ranking = rank_heads(
        lens,
        the_task,
        n_shots=shots,
        n_clean=clean,
        n_trials=trials,
        queries=queries,
        metric=metric,
        foil=foil,
        source=given,
        mode=mode,
        corruption=corruption,
        instruction=instruction,
        other_instruction=other_instruction,
        noise=noise,
        unit=unit,
        seed=seed,
        budget=limit,
        progress=True,
    )
    path = ranking.save(out or Path(f"{file_name(the_task.name)}-ranking.safetensors"))
    heads, table = heads_table(ranking, correction, top, title=f"{the_task.name} on {lens.name}: {metric} of the answer")
    payload = {
        "model": lens.name,
        "task": the_task.name,
        "metric": metric,
        "unit": unit,
        "queries": asked_of(ranking.provenance.options),
        "unedited": float(ranking.baseline.mean()),
        "correction": correction,
        "heads": heads,
        "reliability": reliability_of(ranking),
        "file": str(path),
    }
    emit(payload, as_json, table, *asked_line(ranking.provenance.options), f"written to {path}")


def universal(
    model: ModelName = DEFAULT_MODEL,
    task: Annotated[
        list[str] | None,
        typer.Option(help="Relation or file of pairs; repeatable; default: all built-in relations."),
    ] = None,
    shots: Shots = 10,
    clean: Clean = 100,
    trials: Trials = 25,
    queries: Queries = "all",
    metric: Metric = "prob",
    source: Source = "mean",
    mode: Mode = "replace",
    corruption: Corruption = "permutation",
    instruction: Instruction = None,
    other_instruction: OtherInstruction = None,
    noise: Noise = 3.0,
    unit: Unit = "head",
    correction: Correction = "holm",
    top: Top = 10,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    folder: Annotated[Path, typer.Option(help="Folder of every task's accuracy and ranking; run again to resume.")] = (
        Path("universal-heads")
    ),
    out: Out = None,
) -> None:
    """Rank heads on every task where the model beats a constant answer, and average their effects.

    Writes each task's accuracy and ranking to --folder and the average to --out (default: universal.safetensors in it).
    """
    from lens_fv.heads import universal_heads
    from lens_fv.tasks import list_tasks, load_task

    tasks, given = [load_task(name) for name in task or list_tasks()], _source(source)
    lens = open_model(model, device, dtype)
    goes_on_in(folder)
    found = universal_heads(
        lens,
        tasks,
        n_shots=shots,
        n_clean=clean,
        n_trials=trials,
        queries=queries,
        instruction=instruction,
        seed=seed,
        folder=folder,
        progress=True,
        metric=metric,
        source=given,
        mode=mode,
        corruption=corruption,
        other_instruction=other_instruction,
        noise=noise,
        unit=unit,
    )
    path = found.save(out or folder / "universal.safetensors")
    heads, table = heads_table(found, correction, top, title=f"{len(found.kept)} tasks on {lens.name}: {metric} of the answer")
    tasks_table = columns("task", "accuracy [95 %]", "majority", "", title=f"after {shots} demonstrations")
    for row in found.rows:
        tasks_table.add_row(row.task, str(row.accuracy), f"{row.majority:.2f}", "kept" if row.kept else "dropped")
    payload = {
        "model": lens.name,
        "metric": metric,
        "unit": unit,
        "queries": asked_of(found.provenance.options),
        "tasks": table_rows(found.rows),
        "correction": correction,
        "heads": heads,
        "reliability": reliability_of(found),
        "file": str(path),
    }
    emit(payload, as_json, tasks_table, table, *asked_line(found.provenance.options), f"written to {path}")


def columns(*names: str, title: str) -> Table:
    """Make an empty table with these columns."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(name)
    return table


def asked_of(options: "Mapping[str, Any]") -> dict[str, Any]:
    """Which queries were used and, if not all, how many out of how many."""
    counts = {name: options[name] for name in ("n_queries", "n_items") if name in options}
    return {"asked": options.get("queries", "all"), **counts}


def asked_line(options: "Mapping[str, Any]") -> list[str]:
    """The same as a line of text; empty if all queries were used."""
    said = asked_of(options)
    return [f"asked {said['n_queries']} of {said['n_items']} queries: those that it answers"] if "n_queries" in said else []


def _source(name: str) -> Any:
    from lens_fv.heads import HeadRanking

    return name if name in ("mean", "zero", "resample") else HeadRanking.load(name)


def heads_table(
    effects: "Effects", correction: Literal["holm", "bh", "max", "none"], top: int, *, title: str
) -> tuple[list[dict[str, Any]], Table]:
    """Return all heads as rows for JSON, and a table of the strongest."""
    p, heads = effects.p_values(correction=correction), effects.top()
    table = columns(effects.unit, "effect [95 %]", f"p ({correction})", title=title)
    for h in heads[:top]:
        table.add_row(h.name, f"{h.effect:+.4f}", f"{p[h.layer, h.head]:.2g}")
    return table_rows(h._asdict() | {"p_value": float(p[h.layer, h.head])} for h in heads), table


def reliability_of(effects: "Effects") -> dict[str, float] | None:
    """Reliability of the head order across trials; None with fewer than four trials."""
    return table_row(effects.reliability(k=min(10, effects.mean.numel()))) if len(effects.effects) >= 4 else None
