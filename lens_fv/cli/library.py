"""Libraries of many relations' vectors: build, merge, list, show, fit a map."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import lens_fv as fv
from lens_fv.cli.command import Options, OptionsOf, chosen, command
from lens_fv.cli.decoding import DecodingModel, shown
from lens_fv.cli.inputs import LibraryInput, Loading, Placing, open_model
from lens_fv.cli.leaving import resumes_in
from lens_fv.cli.output import Printout, artefact_printout, table
from lens_fv.core.files import file_name
from lens_fv.errors import LensFVError

Filtering = Annotated[Options, OptionsOf("lens_fv:list_tasks")]


@command
def build(
    *,
    loading: Loading,
    task: Annotated[Sequence[str], "Relation, file or folder of files; repeatable; default: all built-in relations."] = (),
    filtering: Filtering,
    method: Annotated[
        Literal["tuned", "extracted", "shuffled"],
        "How vectors are made: tuned on pairs, extracted from heads, or (control) tuned on shuffled answers.",
    ] = "tuned",
    tuned: Annotated[Options, OptionsOf("lens_fv.composition:TuneRecipe", leave_out=("shuffled",))],
    extracted: Annotated[Options, OptionsOf("lens_fv.composition:ExtractRecipe")],
    building: Annotated[Options, OptionsOf("lens_fv:build_library")],
    out: Annotated[Path | None, "Library folder to write; default: MODEL-library."] = None,
) -> Printout:
    """Make a vector for every relation, all at one layer.

    Writes the vectors and their index to the folder --out. Vectors already there are kept, so an
    interrupted build resumes.
    """
    used, others = (extracted, tuned) if method == "extracted" else (tuned, extracted)
    if unused := sorted(others.keys() - used.keys()):
        raise LensFVError(f"build a library of {method} vectors with {', '.join(unused)}: that is for the other method")
    if task and filtering:
        raise LensFVError(
            f"build a library of {', '.join(task)} by {', '.join(filtering)}: give tasks, or choose built-in ones"
        )
    tasks = [member for name in task or fv.list_tasks(**filtering) for member in fv.tasks.load_tasks(name)]
    model = open_model(**loading)
    if method == "extracted":
        recipe = fv.composition.ExtractRecipe(**{"layer": model.layer_at(0.5), **extracted})
    else:
        recipe = fv.composition.TuneRecipe(**tuned, shuffled=method == "shuffled")
    folder = out or Path(f"{file_name(model.name)}-library")
    resumes_in(folder)
    library = fv.build_library(model, tasks, folder, recipe, **building, progress=True)
    return _listed(library, f"written to {folder}", model=model.name, folder=folder)


@command
def merge(
    folders: Annotated[Sequence[Path], "Folders of two or more libraries made with the same options."],
    *,
    out: Annotated[Path, "Folder for the merged library."] = Path("merged-library"),
) -> Printout:
    """Merge libraries of one model made with the same options, for example on several machines.

    Writes their vectors and an index to the folder --out. Libraries of different models or options are refused.
    """
    return _listed(fv.composition.merge_libraries(folders, out), f"written to {out}", folder=out)


@command
def list_(folder: Annotated[Path, "Library folder."], *, filtering: Filtering) -> Printout:
    """List the vectors of a library."""
    library = fv.VectorLibrary.load(folder).filter(**filtering)
    return _listed(library, repr(library), folder=folder)


@command
def show(
    library: LibraryInput,
    name: Annotated[str, "Name of a relation in the library."],
    *,
    model: DecodingModel = None,
    placing: Placing,
) -> Printout:
    """Show one vector of a library; with --model, decoded into tokens."""
    return shown(library[name], model, placing, vars(library.entry(name)))


@command
def fit(
    library: LibraryInput,
    *,
    loading: Loading,
    options: Annotated[Options, OptionsOf("lens_fv:fit_map")],
    making: Annotated[Options, OptionsOf("lens_fv.composition.analogies:training_analogies")],
    out: Annotated[Path | None, "Map file to write; default: MODEL-FORM-map.safetensors."] = None,
) -> Printout:
    """Learn the map from scores to weights on analogies of the library's built-in relations.

    Writes the map to --out. Every fifth relation is held out to choose the epoch.
    """
    from lens_fv.composition.analogies import training_analogies

    model = open_model(**loading)
    weight_map = fv.fit_map(model, library, *training_analogies(library.names, **making), **options, progress=True)
    form = chosen(options, "lens_fv:fit_map", "form")
    path = out or Path(f"{file_name(model.name)}-{form}-map.safetensors")
    return artefact_printout(weight_map, out=path, summary=weight_map.summary(), scale=weight_map.scale)


def _listed(library: "fv.VectorLibrary", line: str, **values: Any) -> Printout:
    in_order = sorted(library.entries, key=lambda entry: (entry.group, entry.family, entry.name))
    view = table([vars(entry) for entry in in_order], without=("file", "model", "task_hash", "fingerprint"))
    return Printout({**values, "vectors": library.entries}, view, line)
