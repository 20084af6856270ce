"""Commands about models and tasks: demo, models, tasks, verify."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import lens_fv as fv
from lens_fv.cli.command import Options, OptionsOf, command
from lens_fv.cli.inputs import MODEL, Loading, ModelName, Placing, open_model
from lens_fv.cli.output import Printout, table
from lens_fv.core.tables import table_rows
from lens_fv.errors import LensFVError


@command
def demo(
    *,
    loading: Loading,
    task: Annotated[Sequence[str], "Relation or file of pairs; repeatable; default: four relations."] = (),
    options: Annotated[Options, OptionsOf("lens_fv.studies.demo:DemoSettings", only=("seed",))],
    out: Annotated[Path, "Folder for the report."] = Path("demo-report"),
) -> Printout:
    """Rank heads, extract and tune vectors for four relations, and compare them on test pairs.

    Writes to the folder --out: report.html (self-contained), report.json (every number), figures/, and the rankings,
    vectors and evaluations under artefacts/.
    """
    from lens_fv.studies.demo import DemoSettings, run_demo

    if task:
        options["tasks"] = task
    settings = DemoSettings(**options)
    for name in settings.tasks:
        fv.load_task(name)  # complain before the model is loaded
    report = run_demo(open_model(**loading), out, settings, progress=True)
    rows = [
        {"relation": name, "top head": f"{study['heads'][0]['layer']}.{study['heads'][0]['head']}"}
        | {result["condition"]: result["top1_accuracy"] for result in study["results"]}
        for name, study in report["tasks"].items()
    ]
    title = f"first-token accuracy on test pairs, {report['model']}"
    return Printout(report, table(rows, title=title), f"open {out / 'report.html'} ({report['seconds']:.0f} s)")


@command
def models() -> Printout:
    """List the default models with licence, size and cache status."""
    columns = ("name", "title", "licence", "size_mb", "cached")
    rows = [{name: getattr(m, name) for name in columns} | {"path": str(m.path)} for m in fv.list_models()]
    return Printout({"models": rows}, table(rows))


@command
def tasks(
    name: Annotated[str | None, "Relation or file of pairs to show in full, or folder to list; default: list all."] = None,
    *,
    filtering: Annotated[Options, OptionsOf("lens_fv:list_tasks")],
    reading: Annotated[Options, OptionsOf("lens_fv:load_task", leave_out=("name",))],
) -> Printout:
    """List the built-in relations, or show one relation or one file of pairs as parsed.

    Writes nothing unless --out is given; the output for a single task is itself a task file.
    """
    if reading and (name is None or name in fv.list_tasks() or Path(name).is_dir()):
        raise LensFVError(f"columns or alternatives of {name or 'all relations'}: these options are for one file of pairs")
    if filtering and name is not None:
        raise LensFVError(f"tasks of {name} by {' and '.join(filtering)}: these options are for the list of built-in relations")
    if name is None:
        listed = [fv.load_task(built_in) for built_in in fv.list_tasks(**filtering)]
    else:
        listed = [fv.load_task(name, **reading)] if reading else list(fv.tasks.load_tasks(name))
    if name is not None and len(listed) == 1:
        return _one_task(listed[0])
    rows: list[dict[str, Any]] = []
    for task in sorted(listed, key=lambda task: (task.group, task.family, task.name)):
        label, share = task.majority
        example = f"{task.pairs[0].input} -> {task.pairs[0].output}"
        rows.append({"name": task.name, "group": task.group, "family": task.family, "pairs": len(task)})
        rows[-1] |= {"majority": label, "share": share, "example": example}
    return Printout({"tasks": rows}, table(rows))


def _one_task(task: "fv.Task") -> Printout:
    described = ("name", "group", "family", "source", "licence", "languages", "relation_words", "instructions", "clozes")
    pairs = [{"input": pair.input, "output": list(pair.outputs)} for pair in task.pairs]
    payload = {name: getattr(task, name) for name in described} | {"pairs": pairs}
    rows = [{"input": pair["input"], "acceptable outputs": ", ".join(pair["output"])} for pair in pairs]
    title = f"{task.name}: {len(task)} pairs. {task.source} {task.licence}"
    return Printout(payload, table(rows, title=title), *(f"instruction: {text}" for text in task.instructions))


@command
def verify(model: ModelName = MODEL, *, placing: Placing, options: Annotated[Options, OptionsOf("lens_fv:verify")]) -> Printout:
    """Check that a model's hooks behave as documented; exit code 1 if not."""
    lens = open_model(model, **placing)
    findings = fv.verify(lens, **options)
    rows, passed = table_rows(findings), all(finding.passed for finding in findings)
    payload = {"model": model, "passed": passed, "checks": rows}
    return Printout(payload, table(rows, title=repr(lens)), code=0 if passed else 1)
