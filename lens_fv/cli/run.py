"""The command that runs the whole pipeline: demo."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from lens_fv.cli.options import DEFAULT_MODEL, AsJson, Device, Dtype, ModelName, Seed, emit, open_model


def demo(
    model: ModelName = DEFAULT_MODEL,
    task: Annotated[
        list[str] | None, typer.Option(help="Relation or file of pairs; repeatable; default: four relations.")
    ] = None,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("demo-report"),
) -> None:
    """Rank heads, extract and tune vectors for four relations, and compare them on test pairs.

    Writes to the folder --out: report.html (self-contained), report.json (every number), figures/, and the rankings,
    vectors and evaluations under artefacts/.
    """
    from lens_fv.studies.demo import DEMO_TASKS, DemoSettings, run_demo
    from lens_fv.tasks import load_task

    settings = DemoSettings(tasks=tuple(task) if task else DEMO_TASKS, seed=seed)
    for name in settings.tasks:
        load_task(name)  # complain before the model is loaded
    report = run_demo(open_model(model, device, dtype), out, settings, progress=True)
    table = Table(title=f"first-token accuracy on test pairs, {model}", title_justify="left", box=None, pad_edge=False)
    conditions = [r["condition"] for r in next(iter(report["tasks"].values()))["results"]]
    for column in ("relation", "top head", *conditions):
        table.add_column(column, no_wrap=column == "relation")
    for name, found in report["tasks"].items():
        head = found["heads"][0]
        table.add_row(name, f"{head['layer']}.{head['head']}", *(f"{r['top1_accuracy']:.2f}" for r in found["results"]))
    emit(report, as_json, table, f"open {out / 'report.html'} ({report['seconds']:.0f} s)")
