"""Inputs that many commands share: the model, the task, and files that are loaded before a command runs."""

from pathlib import Path
from typing import Annotated, Any

import lens_fv
from lens_fv.cli.command import Options, OptionsOf
from lens_fv.cli.options import Loaded
from lens_fv.errors import LensFVError

MODEL = "smollm2-135m"
TASK = "present-past"
ModelName = Annotated[str, "Model: a default one (`lens-fv models` lists them), a folder or a name on the Hugging Face Hub."]
OwnModel = Annotated[str | None, "Model, as for other commands; default: the library's own."]
TaskInput = Annotated[
    "lens_fv.Task",
    Loaded("lens_fv:load_task", str, TASK),
    "Task: a built-in relation (`lens-fv tasks` lists them) or a file of pairs.",
]
OwnTask = Annotated[
    Annotated["lens_fv.Task", Loaded("lens_fv:load_task", str)] | None,
    f"Task, as for other commands; default: that of the ranking or of the vectors; without these, {TASK}.",
]
TaskFile = Annotated["lens_fv.Task", Loaded("lens_fv:load_task")]
VectorInput = Annotated["lens_fv.FunctionVector", Loaded("lens_fv:FunctionVector.load"), "Vector file."]
RankingInput = Annotated["lens_fv.heads.HeadRanking", Loaded("lens_fv.heads:HeadRanking.load")]
LibraryInput = Annotated[
    "lens_fv.VectorLibrary", Loaded("lens_fv:VectorLibrary.load"), "Library folder, written by `lens-fv library build`."
]
MapInput = Annotated[
    "lens_fv.composition.WeightMap",
    Loaded("lens_fv.composition:WeightMap.load"),
    "Map file written by `lens-fv library fit`; default: softmax of 3 x score.",
]
RunInput = Annotated["lens_fv.FinetuneRun", Loaded("lens_fv:FinetuneRun"), "Run folder written by `lens-fv finetune`."]
OutFile = Annotated[Path | None, "File to write; its default is named above."]
ItemsFile = Annotated[Path | None, "File for the result item by item; default: not written."]


def open_model(model: ModelName = MODEL, *, device: str | None = None, dtype: str | None = None) -> Any:
    """Load the requested model.

    Args:
        model: Model: a default one (`lens-fv models` lists them), a folder or a name on the Hugging Face Hub.
        device: See `load_model`.
        dtype: See `load_model`.
    """
    return lens_fv.load_model(model, device=device, dtype=dtype)


Loading = Annotated[Options, OptionsOf("lens_fv.cli.inputs:open_model")]
"""`--model`, `--device` and `--dtype`."""
Placing = Annotated[Options, OptionsOf("lens_fv:load_model", only=("device", "dtype"))]
"""`--device` and `--dtype`, for commands whose model is not `smollm2-135m` by default."""


def own_task(task: "lens_fv.Task | None", *artefacts: Any) -> "lens_fv.Task":
    """The requested task, or by default that of the artefacts."""
    made_on = [artefact.provenance for artefact in artefacts if artefact is not None]
    if task is not None or not made_on:
        return task or lens_fv.load_task(TASK)
    names = sorted({provenance.task for provenance in made_on})
    if len(names) > 1 or names[0] not in lens_fv.list_tasks():
        raise LensFVError(f"find the task of {', '.join(names)}: it is no single built-in relation; name it by --task")
    built_in = lens_fv.load_task(names[0])
    for provenance in made_on:
        provenance.check_task(built_in.name, built_in.fingerprint, what="use the built-in task")
    return built_in


def open_own_model(library: "lens_fv.VectorLibrary", model: str | None, placing: Options) -> Any:
    """Load the requested model, or by default the library's own."""
    own = sorted({entry.model for entry in library.entries})
    if model is None and len(own) != 1:
        raise LensFVError(f"open the model of {library!r}: its vectors are of {', '.join(own) or 'none'}; choose by --model")
    try:
        return open_model(model or own[0], **placing)
    except LensFVError as error:
        if model is not None:
            raise
        raise LensFVError(f"the library's own model: {error}; say where it is by --model") from error
