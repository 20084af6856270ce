"""Commands that do a whole run: demo, bench."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from lens_fv.cli.options import DEFAULT_MODEL, AsJson, Device, Dtype, ModelName, Seed, Shots, TaskName, emit, open_model


def demo(
    model: ModelName = DEFAULT_MODEL,
    task: Annotated[list[str] | None, typer.Option(help="A relation or a file of pairs; may be given several times.")] = None,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("demo-report"),
) -> None:
    """Which heads carry four relations, what their vectors do, and what 20 pairs of fine-tuning make of them.

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
        table.add_row(name, f"{head['layer']}.{head['head']}", *(f"{r['top1']:.2f}" for r in found["results"]))
    emit(report, as_json, table, f"open {out / 'report.html'} ({report['seconds']:.0f} s)")


def bench_engine(
    model: ModelName = DEFAULT_MODEL,
    task: TaskName = "present-past",
    shots: Shots = 10,
    sample: Annotated[int, typer.Option(min=1, help="Heads that the plain loop is timed on, then scaled to all.")] = 12,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of the engine; the median counts.")] = 5,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    out: Annotated[Path | None, typer.Option(help="Also write the JSON object to this file.")] = None,
) -> None:
    """Patch every head of one few-shot prompt: the one-pass engine against the plain TransformerLens loop, in one run.

    Writes nothing unless --out is given.
    """
    from lens_fv.progress import progress_bar
    from lens_fv.studies.bench import bench_engine as measure
    from lens_fv.tasks import load_task

    the_task, lens = load_task(task), open_model(model, device, dtype)
    with progress_bar("bench", sample + repeats, show=True) as tick:
        found = measure(lens, the_task, n_shots=shots, sample=sample, repeats=repeats, seed=seed, tick=tick).to_json()
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in found.items():
        table.add_row(name, f"{value:.3g}" if isinstance(value, float) else str(value))
    emit(found, as_json, table, out=out)
