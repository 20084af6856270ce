"""The commands `lens-fv library ...`: build, merge, list, show, fit."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import lens_fv as fv
from lens_fv.cli.command import Options, OptionsOf, chosen, command
from lens_fv.cli.decoding import shown
from lens_fv.cli.inputs import LibraryInput, Loading, OwnModel, Placing, open_model
from lens_fv.cli.leaving import resumes_in
from lens_fv.cli.output import Printout, artefact_printout, table
from lens_fv.core.files import file_name
from lens_fv.errors import LensFVError

if TYPE_CHECKING:
    from lens_fv.composition import Entry, VectorLibrary

HELP = "Libraries of many relations' vectors: build, merge, list, show, fit a map."
Filtering = Annotated[Options, OptionsOf("lens_fv:list_tasks")]


@command
def build(
    *,
    loading: Loading,
    task: Sequence[str] = (),
    filtering: Filtering,
    method: Literal["tuned", "extracted", "shuffled"] = "tuned",
    tuned: Annotated[Options, OptionsOf("lens_fv.composition:TuneRecipe", leave_out=("shuffled",))],
    extracted: Annotated[Options, OptionsOf("lens_fv.composition:ExtractRecipe")],
    building: Annotated[Options, OptionsOf("lens_fv:build_library")],
    out: Path | None = None,
) -> Printout:
    """Make a vector for every relation, all at one layer.

    Writes the vectors and their index to the folder --out. Vectors already there are kept, so an
    interrupted build resumes.

    Args:
        task: Relation, file or folder of files; repeatable; default: all built-in relations.
        method: How vectors are made: tuned on pairs, extracted from heads, or (control) tuned on shuffled answers.
        out: Library folder to write; default: MODEL-library.
    """
    from lens_fv.composition.recipes import middle_layer

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
        recipe = fv.composition.ExtractRecipe(**{"layer": middle_layer(model), **extracted})
    else:
        recipe = fv.composition.TuneRecipe(**tuned, shuffled=method == "shuffled")
    folder = out or Path(f"{file_name(model.name)}-library")
    resumes_in(folder)
    library = fv.build_library(model, tasks, folder, recipe, **building, progress=True)
    return _listed(library, f"written to {folder}", model=model.name, folder=str(folder))


@command
def merge(
    folders: Annotated[Sequence[Path], "Folders of two or more libraries made with the same options."],
    *,
    out: Path = Path("merged-library"),
) -> Printout:
    """Merge libraries of one model made with the same options, for example on several machines.

    Writes their vectors and an index to the folder --out. Libraries of different models or options are refused.

    Args:
        out: Folder for the merged library.
    """
    return _listed(fv.composition.merge_libraries(folders, out), f"written to {out}", folder=str(out))


@command
def list_(folder: Annotated[Path, "Library folder."], *, filtering: Filtering) -> Printout:
    """List the vectors of a library."""
    library = fv.VectorLibrary.load(folder).filter(**filtering)
    return _listed(library, repr(library), folder=str(folder))


@command
def show(
    library: LibraryInput,
    name: Annotated[str, "Name of a relation in the library."],
    *,
    model: OwnModel = None,
    placing: Placing,
) -> Printout:
    """Show one vector of a library; with --model, decoded into tokens.

    Args:
        model: Model that decodes the vector; default: do not decode.
    """
    return shown(library[name], model, placing, _row(library.entry(name)))


@command
def fit(
    library: LibraryInput,
    *,
    loading: Loading,
    options: Annotated[Options, OptionsOf("lens_fv:fit_map")],
    making: Annotated[Options, OptionsOf("lens_fv.composition.analogies:training_analogies")],
    out: Path | None = None,
) -> Printout:
    """Learn the map from scores to weights on analogies of the library's built-in relations.

    Writes the map to --out. Every fifth relation is held out to choose the epoch.

    Args:
        out: Map file to write; default: MODEL-FORM-map.safetensors.
    """
    from lens_fv.composition.analogies import training_analogies

    model = open_model(**loading)
    weight_map = fv.fit_map(model, library, *training_analogies(library.names, **making), **options, progress=True)
    form = chosen(options, "lens_fv:fit_map", "form")
    path = out or Path(f"{file_name(model.name)}-{form}-map.safetensors")
    return artefact_printout(weight_map, out=path, summary=weight_map.summary(), scale=weight_map.scale)


def _row(entry: "Entry") -> dict[str, Any]:
    return asdict(entry) | {"file": str(entry.file)}


def _listed(library: "VectorLibrary", line: str, **values: Any) -> Printout:
    rows = [_row(entry) for entry in library.entries]
    in_order = sorted(rows, key=lambda row: (row["group"], row["family"], row["name"]))
    view = table(in_order, without=("file", "model", "task_hash", "fingerprint"))
    return Printout({**values, "vectors": rows}, view, line)


COMMANDS = (build, merge, list_, show, fit)
