"""Commands that inspect models, tasks and files: models, tasks, verify, show."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from lens_fv.cli.options import AsJson, Device, Dtype, ModelName, NoDevice, NoDtype, NoSeed, Seed, emit, open_model

Report = Annotated[Path | None, typer.Option("--out", help="File for the JSON object; default: not written.")]


def models(
    as_json: AsJson = False,
    seed: NoSeed = 0,  # noqa: ARG001
    device: NoDevice = None,  # noqa: ARG001
    dtype: NoDtype = None,  # noqa: ARG001
    out: Report = None,
) -> None:
    """List the default models with licence, size and cache status. Writes nothing unless --out is given."""
    from lens_fv.model import list_models

    found = list_models()
    table = _table("name", "model", "licence", "size", "cached")
    for m in found:
        table.add_row(m.name, m.title, m.licence, f"{m.size_mb} MB", str(m.path) if m.cached else "no")
    rows = [
        {"name": m.name, "title": m.title, "licence": m.licence, "size_mb": m.size_mb, "cached": m.cached, "path": str(m.path)}
        for m in found
    ]
    emit({"models": rows}, as_json, table, out=out)


def tasks(
    name: Annotated[
        str | None, typer.Argument(help="Relation or file of pairs to show in full, or folder to list; default: list all.")
    ] = None,
    group: Annotated[str | None, typer.Option(help="Group of relations to list, such as morphology; default: all.")] = None,
    family: Annotated[str | None, typer.Option(help="Family of relations to list, such as inflection; default: all.")] = None,
    input_column: Annotated[
        str | None, typer.Option(help="Column of inputs in the file: name or, without a header, number from 1.")
    ] = None,
    output_column: Annotated[str | None, typer.Option(help="Column of outputs in the file, given the same way.")] = None,
    alternatives: Annotated[
        str | None, typer.Option(help="Separator of acceptable outputs in the file, such as /; empty: none.")
    ] = None,
    as_json: AsJson = False,
    seed: NoSeed = 0,  # noqa: ARG001
    device: NoDevice = None,  # noqa: ARG001
    dtype: NoDtype = None,  # noqa: ARG001
    out: Report = None,
) -> None:
    """List the built-in relations, or show one relation or one file of pairs as parsed.

    Writes nothing unless --out is given; the output for a single task is itself a task file.
    """
    from lens_fv.errors import LensFVError
    from lens_fv.tasks import list_tasks, load_task, load_tasks

    columns = {"input_column": input_column, "output_column": output_column, "alternatives": alternatives}
    told = any(value is not None for value in columns.values())
    if told and (name is None or name in list_tasks() or Path(name).is_dir()):
        raise LensFVError(f"columns or alternatives of {name or 'all relations'}: these options are for one file of pairs")
    if name is None:
        found = [load_task(n) for n in list_tasks(group=group, family=family)]
    else:
        found = [load_task(name, **columns)] if told else load_tasks(name)
    if name is None or len(found) > 1:
        table = _table("name", "group", "family", "pairs", "example", "majority label")
        rows: list[dict[str, object]] = []
        for task in sorted(found, key=lambda t: (t.group, t.family, t.name)):
            label, share = task.majority
            example = f"{task.pairs[0].input} -> {task.pairs[0].output}"
            table.add_row(task.name, task.group, task.family, str(len(task)), example, f"{label} {share:.0%}")
            kind = {"group": task.group, "family": task.family}
            rows.append({"name": task.name, **kind, "pairs": len(task), "majority": label, "share": share})
        emit({"tasks": rows}, as_json, table, out=out)
        return
    task = found[0]
    table = _table("input", "acceptable outputs", title=f"{task.name}: {len(task)} pairs. {task.source} {task.licence}")
    for pair in task.pairs:
        table.add_row(pair.input, ", ".join(pair.outputs))
    payload = {
        "name": task.name,
        "group": task.group,
        "family": task.family,
        "source": task.source,
        "licence": task.licence,
        "languages": list(task.languages),
        "relation_words": list(task.relation_words),
        "instructions": list(task.instructions),
        "clozes": list(task.clozes),
        "pairs": [{"input": p.input, "output": list(p.outputs)} for p in task.pairs],
    }
    emit(payload, as_json, table, *(f"instruction: {i}" for i in task.instructions), out=out)


def verify(
    name: Annotated[
        str, typer.Argument(help="Model: a default one (see `lens-fv models`), a folder or a Hub name.")
    ] = "smollm2-135m",
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    out: Report = None,
) -> None:
    """Check that a model's hooks behave as documented; exit code 1 if not. Writes nothing unless --out is given."""
    from lens_fv.patching import verify as check

    model = open_model(name, device, dtype)
    findings = check(model, seed=seed)
    table = _table("check", "passed", "found", title=repr(model))
    for f in findings:
        table.add_row(f.check, "yes" if f.passed else "NO", f.detail)
    passed = all(f.passed for f in findings)
    emit({"model": name, "passed": passed, "checks": [f._asdict() for f in findings]}, as_json, table, out=out)
    if not passed:
        raise typer.Exit(1)


def show(
    file: Annotated[Path, typer.Argument(help="File written by another command.")],
    as_json: AsJson = False,
    model: ModelName = "",
    seed: NoSeed = 0,  # noqa: ARG001
    device: Device = None,
    dtype: Dtype = None,
    out: Report = None,
) -> None:
    """Show any artefact and its provenance; with --model, also decode a vector into tokens.

    Writes nothing unless --out is given.
    """
    import dataclasses

    from lens_fv.evaluation import load_artefact
    from lens_fv.vectors import FunctionVector, decode

    artefact = load_artefact(file)
    payload: dict[str, object] = {
        "file": str(file),
        "kind": type(artefact).__name__,
        "facts": artefact.summary(),
        "provenance": dataclasses.asdict(artefact.provenance),
    }
    views = [repr(artefact)]
    if model and isinstance(artefact, FunctionVector):
        decoded = decode(open_model(model, device, dtype), artefact)
        payload["decoded"] = decoded.tokens
        views.append("  decodes into  " + ", ".join(f"{token!r} {p:.2f}" for token, p in decoded.tokens))
    emit(payload, as_json, *views, out=out)


def _table(*columns: str, title: str | None = None) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
