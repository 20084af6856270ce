"""Methods against forgetting in a sequence of tasks: replay, guides, and penalties on weight changes."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from lens_fv.core.artefact_file import read_tensors
from lens_fv.core.files import write_atomically
from lens_fv.errors import LensFVError
from lens_fv.finetuning.examples import Example
from lens_fv.finetuning.regularizers import Guide
from lens_fv.finetuning.regularizers.penalties import Importance, OrthogonalBlocks, ewc_penalty, fisher_information
from lens_fv.finetuning.run import UPDATES, FinetuneRun
from lens_fv.finetuning.settings import FinetuneConfig
from lens_fv.vectors import FunctionVector

IMPORTANCE = "importance.safetensors"
VECTORS = "vectors"
MAX_BATCHES = 50
"""Maximum number of a task's batches used to measure weight importance."""

Batches = Callable[[int], Iterator[Mapping[str, torch.Tensor]]]
"""The batches of a stage, by its index."""


def with_replay(examples: Sequence[list[Example]], share: float, seed: int) -> list[list[Example]]:
    """Replace a share of each task's examples by examples of earlier tasks, keeping the number of examples and steps."""
    mixed: list[list[Example]] = []
    for i, own in enumerate(examples):
        earlier = list(chain(*examples[:i]))
        n = min(round(share * len(own)), len(earlier))
        mixed.append(own[: len(own) - n] + random.Random(f"{seed}/replay/{i}").sample(earlier, n))
    return mixed


def save_vectors(run: FinetuneRun, vectors: Mapping[str, FunctionVector] | None, settings: FinetuneConfig) -> None:
    """Save the vectors that guide each task in the run's folder; they must not change during the run.

    Raises:
        LensFVError: a task has no vector, or its vector belongs to another model or differs from the one that the run started
            with.
    """
    if settings.active_guide is None or not settings.active_guide.needs_vector:
        return
    for name in run.tasks:
        file, vector = _vector_file(run, name), (vectors or {}).get(name)
        if vector is None:
            if not file.is_file():
                raise LensFVError(f"guide the training of {name}: there is no vector of it; give one by the task's name")
            continue
        about = vector.provenance
        same = about.model == run.about["model"] and about.revision in (None, run.about["revision"])
        if about.dtype == run.about["dtype"]:
            same = same and about.fingerprint in (None, run.about.get("fingerprint", about.fingerprint))
        if not same or about.weight_processing != "raw":
            raise LensFVError(
                f"guide the training of {name} on {run.about['model']} ({run.about['revision']}): the vector was made on "
                f"{about.model} ({about.revision}), weights {about.weight_processing}; make it on the very model, weights raw"
            )
        if file.is_file() and run.checkpoints and not torch.equal(FunctionVector.load(file).vector, vector.vector):
            raise LensFVError(
                f"resume the run in {run.folder}: it was guided by another vector of {name}; choose another folder"
            )
        vector.save(file)


def _vector_file(run: FinetuneRun, task: str) -> Path:
    return run.folder / VECTORS / f"{run.stage_folder(run.tasks.index(task)).name}.safetensors"


@contextmanager
def stage_regularizers(
    model: Any,
    run: FinetuneRun,
    index: int,
    settings: FinetuneConfig,
    batches: Batches,
    swap_prompts: Sequence[Sequence[int]],
) -> Iterator[dict[str, Any]]:
    """Yield the guide and the penalties of one stage of a run, as arguments of `guided(Trainer)`.

    The model is in its state at the end of the previous stage, unless this stage has already begun.
    """
    guide: Guide | None = None
    penalties: list[Callable[[], torch.Tensor]] = []
    if settings.active_guide is not None:
        # Before the first task there are no updates, so "previous" equals "base".
        config = settings.active_guide if index else replace(settings.active_guide, teacher="base")
        vector = FunctionVector.load(_vector_file(run, run.tasks[index])) if config.needs_vector else None
        previous = _previous_updates(run, index) if config.teacher == "previous" else None
        guide = Guide(model, vector, config, previous=previous, swap_prompts=swap_prompts)
    if settings.ewc and index:
        penalties.append(ewc_penalty(model, _load_importance(model, run, index, batches, settings), settings.ewc))
    with ExitStack() as stack:
        if settings.orthogonal:
            blocks = OrthogonalBlocks(model, settings.rank, index, settings.orthogonal)
            penalties.append(stack.enter_context(closing(blocks)))
        yield {"guide": guide, "penalties": penalties}


def _previous_updates(run: FinetuneRun, index: int) -> dict[str, torch.Tensor]:
    """Return the updates at the end of the previous stage, under PEFT's parameter names."""
    checkpoint = next(c for c in run.checkpoints if c.index == index - 1 and c.last)
    updates = read_tensors(checkpoint.folder / UPDATES)
    return {name.replace(".weight", ".default.weight"): value for name, value in updates.items()}


def _load_importance(model: Any, run: FinetuneRun, index: int, batches: Batches, settings: FinetuneConfig) -> Importance:
    """Return the accumulated weight importance of all previous stages, measured on each one's examples at its end and saved."""
    file = run.stage_folder(index - 1) / IMPORTANCE
    if not file.is_file():
        earlier = _read_importance(run.stage_folder(index - 2) / IMPORTANCE) if index > 1 else None
        importance = fisher_information(model, list(islice(batches(index - 1), MAX_BATCHES)), earlier, fisher=settings.fisher)
        tensors: dict[str, torch.Tensor] = {}
        for name, (information, value) in importance.items():
            tensors |= {f"f/{name}": information.cpu().contiguous(), f"was/{name}": value.cpu().contiguous()}
        write_atomically(file, save(tensors))
    return _read_importance(file)


def _read_importance(file: Path) -> Importance:
    tensors = read_tensors(file)
    names = [key.removeprefix("f/") for key in tensors if key.startswith("f/")]
    return {name: (tensors[f"f/{name}"], tensors[f"was/{name}"]) for name in names}
