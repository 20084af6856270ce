"""Inputs that many commands share: the model, the task, vectors and rankings from files."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

import lens_fv as fv
from lens_fv.cli.command import Options, OptionsOf
from lens_fv.errors import LensFVError

if TYPE_CHECKING:
    from lens_fv.composition import VectorLibrary
    from lens_fv.vectors import FunctionVector

MODEL = "smollm2-135m"
TASK = "present-past"
ModelName = Annotated[
    str, Parameter(help="Model: a default one (`lens-fv models` lists them), a folder or a name on the Hugging Face Hub.")
]
TaskName = Annotated[str, Parameter(help="Task: a built-in relation (`lens-fv tasks` lists them) or a file of pairs.")]
Vectors = Annotated[Sequence[Path] | None, Parameter(help="Vector file; repeatable.")]
LibraryFolder = Annotated[Path, Parameter(help="Library folder, written by `lens-fv library build`.")]
MapFile = Annotated[Path | None, Parameter(help="Map file written by `library fit`; default: softmax of 3 x score.")]
OutFile = Annotated[Path | None, Parameter(help="File to write; its default is named above.")]
ItemsFile = Annotated[Path | None, Parameter(help="File for the result item by item; default: not written.")]


def open_model(model: ModelName = MODEL, *, device: str | None = None, dtype: str | None = None) -> Any:
    """Load the requested model.

    Args:
        device: See `load_model`.
        dtype: See `load_model`.
    """
    return fv.load_model(model, device=device, dtype=dtype)


Loading = Annotated[Options, OptionsOf("lens_fv.cli.inputs:open_model")]
"""`--model`, `--device` and `--dtype`."""
Placing = Annotated[Options, OptionsOf("lens_fv:load_model", only=("device", "dtype"))]
"""`--device` and `--dtype`, for commands whose model is not `smollm2-135m` by default."""
OwnModel = Annotated[str | None, Parameter(help="Model, as for other commands; default: the library's own.")]


def load_vectors(files: Sequence[Path], scale: float) -> "dict[str, FunctionVector]":
    """Load vectors from files, keyed by the method that made them.

    Raises:
        LensFVError: two vectors were made by the same method.
    """
    vectors: dict[str, FunctionVector] = {}
    for path in files:
        vector = fv.FunctionVector.load(path)
        name = vector.provenance.method
        if name in vectors:
            raise LensFVError(f"evaluate {path}: another {name} vector is given already; evaluate them one at a time")
        vectors[name] = vector.at(scale=scale)
    return vectors


def open_own_model(library: "VectorLibrary", model: str | None, loading: Options) -> Any:
    """Load the requested model, or by default the library's own."""
    own = sorted({entry.model for entry in library.entries})
    if model is None and len(own) != 1:
        raise LensFVError(f"open the model of {library!r}: its vectors are of {', '.join(own) or 'none'}; choose by --model")
    try:
        return open_model(model or own[0], **loading)
    except LensFVError as error:
        if model is not None:
            raise
        raise LensFVError(f"the library's own model: {error}; say where it is by --model") from error


def queries_used(options: Any) -> dict[str, Any]:
    """Which queries were used and, if not all, how many out of how many, from an artefact's provenance."""
    return {
        "asked": options.get("queries", "all"),
        **{name: options[name] for name in ("n_queries", "n_items") if name in options},
    }


def notes(options: Any, path: Path | str | None) -> list[str]:
    """Lines below a table: how many queries were used if not all, and the file that was written."""
    lines = (
        [f"asked {options['n_queries']} of {options['n_items']} queries: those that it answers"]
        if "n_queries" in options
        else []
    )
    return [*lines, f"written to {path}"] if path else lines
