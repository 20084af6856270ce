"""Commands that score heads in other ways: classes, attributions."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from lens_fv.cli.heads import Clean, Out, Top, Trials, columns
from lens_fv.cli.options import (
    DEFAULT_MODEL,
    AsJson,
    Device,
    Dtype,
    ModelName,
    Seed,
    SeedOption,
    Shots,
    TaskName,
    emit,
    open_model,
)
from lens_fv.core.files import file_name
from lens_fv.core.tables import table_row, table_rows


def classes(
    model: ModelName = DEFAULT_MODEL,
    task: TaskName = "present-past",
    token_class: Annotated[
        list[str] | None,
        typer.Option(
            "--class", help="Token class, such as label or query_predictive; repeatable; default: all ten of Todd et al."
        ),
    ] = None,
    shots: Shots = 5,
    clean: Clean = 25,
    trials: Trials = 3,
    metric: Annotated[Literal["prob", "logprob"], typer.Option(help="Effect metric, on the answer's first token.")] = "prob",
    top: Top = 10,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    out: Out = None,
) -> None:
    """Measure every head's indirect effect at each token class: labels, separators, the query, ...

    Writes the effects to --out (default: TASK-classes.safetensors). Ten classes mean ten times as many patches, most of
    them near the start of the prompt. It takes many times longer than rank, so its defaults are smaller.
    """
    from lens_fv.heads import class_effects
    from lens_fv.tasks import load_task

    the_task, lens = load_task(task), open_model(model, device, dtype)
    found = class_effects(
        lens,
        the_task,
        classes=token_class or None,
        n_shots=shots,
        n_clean=clean,
        n_trials=trials,
        metric=metric,
        seed=seed,
        progress=True,
    )
    path = found.save(out or Path(f"{file_name(the_task.name)}-classes.safetensors"))
    table = columns("head", "class", "effect [95 %]", title=f"{the_task.name} on {lens.name}: {metric} of the answer")
    effects = found.top()
    for e in effects[:top]:
        table.add_row(e.name, e.token_class, f"{e.effect:+.4f}")
    payload = {
        "model": lens.name,
        "task": the_task.name,
        "metric": metric,
        "classes": list(found.classes),
        "effects": table_rows(effects),
        "file": str(path),
    }
    emit(payload, as_json, table, f"written to {path}")


def attributions(
    ranking: Annotated[Path, typer.Argument(help="Ranking file written by `rank`.")],
    model: ModelName = DEFAULT_MODEL,
    task: TaskName = "present-past",
    as_json: AsJson = False,
    seed: Annotated[int | None, SeedOption(help="Seed for the split; default: the ranking's own.")] = None,
    device: Device = None,
    dtype: Dtype = None,
    out: Out = None,
) -> None:
    """Compare attribution patching and direct logit attribution (TransformerLens) with a ranking's exact effects.

    Writes the comparison to --out (default: TASK-attributions.safetensors).
    """
    from lens_fv.heads import HeadRanking, compare_attributions
    from lens_fv.heads.comparison import SCORE_NAMES
    from lens_fv.tasks import load_task, split_pairs

    the_task, exact = load_task(task), HeadRanking.load(ranking)
    split = None if seed is None else split_pairs(the_task, seed=seed)
    lens = open_model(model, device, dtype)
    found = compare_attributions(lens, the_task, exact, split=split, progress=True)
    path = found.save(out or Path(f"{file_name(the_task.name)}-attributions.safetensors"))
    table = columns("score", "Spearman", "Kendall", "of the top 10 (chance)", title=f"against exact effects, {the_task.name}")
    rows: list[dict[str, object]] = []
    for score in ("attribution", "direct"):
        spearman, kendall = (found.correlation(score, coefficient=coefficient) for coefficient in ("spearman", "kendall"))
        shared = found.overlap(score, min(10, found.exact[0].numel()))
        table.add_row(SCORE_NAMES[score], f"{spearman:+.2f}", f"{kendall:+.2f}", f"{shared.shared} ({shared.chance:.1f})")
        rows.append(
            {"score": score, "spearman": spearman._asdict(), "kendall": kendall._asdict(), "overlap": table_row(shared)}
        )
    payload = {"model": lens.name, "task": the_task.name, "metric": found.metric, "scores": rows, "file": str(path)}
    emit(payload, as_json, table, f"written to {path}")
