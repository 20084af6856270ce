"""The commands `lens-fv library ...`: libraries of many relations' vectors."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from lens_fv.cli.heads import Clean, Trials
from lens_fv.cli.inspect import Report
from lens_fv.cli.leaving import goes_on_in
from lens_fv.cli.options import (
    DEFAULT_MODEL,
    AsJson,
    Device,
    Dtype,
    ModelName,
    NoDevice,
    NoDtype,
    NoSeed,
    Seed,
    Shots,
    emit,
    open_model,
)
from lens_fv.core.files import file_name

if TYPE_CHECKING:
    from lens_fv.composition import Entry

library = typer.Typer(help="Libraries of many relations' vectors: build, merge, list, show, fit a map.", no_args_is_help=True)
Folder = Annotated[Path, typer.Argument(help="Library folder.")]
Group = Annotated[str | None, typer.Option("--group", help="Group of relations, such as morphology; default: all.")]
Family = Annotated[str | None, typer.Option("--family", help="Family of relations, such as inflection; default: all.")]


@library.command()
def build(
    model: ModelName = DEFAULT_MODEL,
    task: Annotated[
        list[str] | None,
        typer.Option("--task", help="Relation, file or folder of files; repeatable; default: all built-in relations."),
    ] = None,
    group: Group = None,
    family: Family = None,
    method: Annotated[
        Literal["tuned", "extracted", "shuffled"],
        typer.Option(
            help="How vectors are made: tuned on pairs, extracted from heads, or (control) tuned on shuffled answers."
        ),
    ] = "tuned",
    layer: Annotated[int | None, typer.Option(help="Layer after which all vectors are added; default: the middle one.")] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Number of training pairs per relation, for tuned vectors.")] = 20,
    steps: Annotated[int, typer.Option(min=1, help="Number of Adam steps, for tuned vectors.")] = 40,
    heads: Annotated[int, typer.Option(min=1, help="Number of strongest heads, for extracted vectors.")] = 10,
    shots: Shots = 10,
    clean: Clean = 100,
    trials: Trials = 25,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    out: Annotated[Path | None, typer.Option("--out", help="Library folder to write; default: MODEL-library.")] = None,
) -> None:
    """Make a vector for every relation, all at one layer.

    Writes the vectors and their index to the folder --out. Vectors already there are kept, so an
    interrupted build resumes.
    """
    from lens_fv.composition import ExtractRecipe, TuneRecipe, build_library
    from lens_fv.composition.recipes import middle_layer
    from lens_fv.tasks import list_tasks, load_tasks

    the_tasks = [one for name in task or list_tasks(group=group, family=family) for one in load_tasks(name)]
    lens = open_model(model, device, dtype)
    folder = out or Path(f"{file_name(lens.name)}-library")
    if method == "extracted":
        at = middle_layer(lens) if layer is None else layer
        recipe = ExtractRecipe(layer=at, n_heads=heads, n_shots=shots, n_clean=clean, n_trials=trials)
    else:
        recipe = TuneRecipe(layer=layer, n_pairs=pairs, steps=steps, shuffled=method == "shuffled")
    goes_on_in(folder)
    made = build_library(lens, the_tasks, folder, recipe, seed=seed, progress=True)
    payload = {"model": lens.name, "folder": str(folder), "vectors": [_row(entry) for entry in made.entries]}
    emit(payload, as_json, _table(made.entries), f"written to {folder}")


@library.command()
def merge(
    folders: Annotated[list[Path], typer.Argument(help="Folders of two or more libraries made with the same options.")],
    as_json: AsJson = False,
    seed: NoSeed = 0,  # noqa: ARG001
    device: NoDevice = None,  # noqa: ARG001
    dtype: NoDtype = None,  # noqa: ARG001
    out: Annotated[Path, typer.Option("--out", help="Folder for the merged library.")] = Path("merged-library"),
) -> None:
    """Merge libraries of one model made with the same options, for example on several machines.

    Writes their vectors and an index to the folder --out. Libraries of different models or options are refused.
    """
    from lens_fv.composition import merge_libraries

    made = merge_libraries(folders, out)
    payload = {"folder": str(out), "vectors": [_row(entry) for entry in made.entries]}
    emit(payload, as_json, _table(made.entries), f"written to {out}")


@library.command("list")
def list_vectors(
    folder: Folder,
    group: Group = None,
    family: Family = None,
    as_json: AsJson = False,
    seed: NoSeed = 0,  # noqa: ARG001
    device: NoDevice = None,  # noqa: ARG001
    dtype: NoDtype = None,  # noqa: ARG001
    out: Report = None,
) -> None:
    """List the vectors of a library. Writes nothing unless --out is given."""
    from lens_fv.composition import VectorLibrary

    found = VectorLibrary.open(folder).filter(group=group, family=family)
    payload = {"folder": str(folder), "vectors": [_row(entry) for entry in found.entries]}
    emit(payload, as_json, _table(found.entries), repr(found), out=out)


@library.command()
def show(
    folder: Folder,
    name: Annotated[str, typer.Argument(help="Name of a relation in the library.")],
    model: Annotated[
        str, typer.Option("--model", help="Model that decodes the vector into tokens; default: do not decode.")
    ] = "",
    as_json: AsJson = False,
    seed: NoSeed = 0,  # noqa: ARG001
    device: Device = None,
    dtype: Dtype = None,
    out: Report = None,
) -> None:
    """Show one vector of a library; with --model, decoded into tokens. Writes nothing unless --out is given."""
    from lens_fv.composition import VectorLibrary
    from lens_fv.vectors import decode

    found = VectorLibrary.open(folder)
    vector = found[name]
    payload: dict[str, Any] = _row(found.entry(name)) | {"facts": vector.summary()}
    views = [repr(vector)]
    if model:
        decoded = decode(open_model(model, device, dtype), vector)
        payload["decoded"] = decoded.tokens
        views.append("  decodes into  " + ", ".join(f"{token!r} {p:.2f}" for token, p in decoded.tokens))
    emit(payload, as_json, *views, out=out)


@library.command()
def fit(
    folder: Folder,
    model: ModelName = DEFAULT_MODEL,
    form: Annotated[str, typer.Option(help="Learned part of the map's matrix: temperature, diagonal or full.")] = "diagonal",
    epochs: Annotated[int, typer.Option(min=1, help="Number of passes over the analogies.")] = 3,
    most: Annotated[int, typer.Option(min=1, help="Maximum number of analogies per relation.")] = 12,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    out: Annotated[Path | None, typer.Option("--out", help="Map file to write; default: MODEL-FORM-map.safetensors.")] = None,
) -> None:
    """Learn the map from scores to weights on analogies of the library's built-in relations.

    Writes the map to --out. Every fifth relation is held out to choose the epoch.
    """
    from lens_fv.composition import VectorLibrary, fit_map
    from lens_fv.composition.fit import Form
    from lens_fv.errors import LensFVError
    from lens_fv.studies.relational.problems import training_analogies

    forms: dict[str, Form] = {"temperature": "temperature", "diagonal": "diagonal", "full": "full"}
    if form not in forms:
        raise LensFVError(f"fit a map of form {form!r}: there are {', '.join(forms)}")
    found, lens = VectorLibrary.open(folder), open_model(model, device, dtype)
    train, held_out = training_analogies(found.names, most=most, seed=seed)
    fitted = fit_map(lens, found, train, held_out, form=forms[form], epochs=epochs, seed=seed, progress=True)
    path = fitted.save(out or Path(f"{file_name(lens.name)}-{form}-map.safetensors"))
    payload = {"model": lens.name, "file": str(path), "facts": fitted.summary(), "scale": fitted.scale}
    emit(payload, as_json, repr(fitted), f"written to {path}")


def _row(entry: "Entry") -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(entry) | {"file": str(entry.file)}


def _table(entries: "tuple[Entry, ...]") -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("relation", "group", "family", "layer", "norm", "gain", "log-prob", "top-1"):
        table.add_column(column, overflow="fold")
    for e in sorted(entries, key=lambda e: (e.group, e.family, e.name)):
        numbers = (str(e.layer), f"{e.norm:.2f}", f"{e.gain:.2f}", f"{e.logprob:.2f}", f"{e.top1:.2f}")
        table.add_row(e.name, e.group, e.family, *numbers)
    return table
