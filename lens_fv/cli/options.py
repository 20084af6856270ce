"""Options shared by all commands, and the printing of results."""

import io
import json
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, RenderableType

from lens_fv.cli.leaving import write_out

if TYPE_CHECKING:
    from lens_fv.model import LensModel
    from lens_fv.vectors import FunctionVector

SeedOption = partial(typer.Option, "--seed", min=0, max=2**32 - 1)
ModelName = Annotated[str, typer.Option("--model", help="Model: a default one (see `lens-fv models`), a folder or a Hub name.")]
TaskName = Annotated[str, typer.Option("--task", help="Task: a built-in relation (see `lens-fv tasks`) or a file of pairs.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print a single JSON object to standard output, and nothing else.")]
Seed = Annotated[int, SeedOption(help="Seed for splits, prompts and random draws.")]
Device = Annotated[str | None, typer.Option("--device", help="Device: cpu, cuda, cuda:1 or mps; default: cuda if available.")]
Dtype = Annotated[
    str | None, typer.Option("--dtype", help="Precision of the weights: float32 (default), bfloat16, float16 or float64.")
]
NoSeed = Annotated[int, SeedOption(help="Accepted by every command; unused here, as nothing is random.")]
NoDevice = Annotated[
    str | None, typer.Option("--device", help="Accepted by every command; unused here, as no model is loaded.")
]
NoDtype = Annotated[str | None, typer.Option("--dtype", help="Accepted by every command; unused here, as no model is loaded.")]
Items = Annotated[int | None, typer.Option("--items", min=1, help="Maximum number of test pairs; default: all.")]
Shots = Annotated[int, typer.Option("--shots", min=0, help="Number of demonstrations in a few-shot prompt.")]
Vectors = Annotated[list[Path] | None, typer.Option("--vector", help="Vector file; repeatable.")]
Scale = Annotated[float, typer.Option("--scale", help="Factor that multiplies the vectors.")]
Force = Annotated[bool, typer.Option("--force", help="Apply vectors even if they were made for another model or basis.")]
EvaluationFile = Annotated[
    Path | None, typer.Option("--out", help="File for the item-by-item evaluation; default: not written.")
]

DEFAULT_MODEL = "smollm2-135m"


def open_model(name: str, device: str | None, dtype: str | None) -> "LensModel":
    """Load the requested model."""
    from lens_fv.model import load_model

    return load_model(name, device=device, dtype=dtype)


def read_vectors(files: Sequence[Path], scale: float) -> "dict[str, FunctionVector]":
    """Load vectors from files, keyed by the method that made them.

    Raises:
        LensFVError: two vectors were made by the same method.
    """
    from lens_fv.errors import LensFVError
    from lens_fv.vectors import FunctionVector

    vectors: dict[str, FunctionVector] = {}
    for path in files:
        loaded = FunctionVector.load(path)
        name = loaded.provenance.method
        if name in vectors:
            raise LensFVError(f"evaluate {path}: another {name} vector is given already; evaluate them one at a time")
        vectors[name] = loaded.at(scale=scale)
    return vectors


def emit(payload: dict[str, Any], as_json: bool, *views: RenderableType, out: Path | None = None) -> None:
    """Print a command's result as a JSON object or as views, and also write the object to `out` if given."""
    if out is not None:
        from lens_fv.core.files import write_whole

        write_whole(out, json.dumps(payload, ensure_ascii=False) + "\n")
    if as_json:
        write_out(json.dumps(payload, ensure_ascii=not Console().encoding.startswith("utf")) + "\n")
        return
    write_out(_rendered(views))


def _rendered(views: Iterable[RenderableType]) -> str:
    """Render the views with Rich and return the text; `write_out` prints it and handles failures."""
    there = Console()
    page = io.TextIOWrapper(io.BytesIO(), encoding=there.encoding, errors="backslashreplace", newline="")
    console = Console(
        file=page,
        markup=False,
        highlight=False,
        width=there.width,
        force_terminal=there.is_terminal,
        color_system=there.color_system,  # pyright: ignore[reportArgumentType] - one of its names
    )
    for view in views:
        console.print(view)
    page.seek(0)
    return page.read()
