"""Methods against forgetting: guides, replay, and penalties on weight changes."""

import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from lens_fv.core.artefact_file import read_tensors
from lens_fv.core.files import write_atomically
from lens_fv.errors import LensFVError
from lens_fv.finetuning.examples import Example
from lens_fv.finetuning.regularizers import Guide
from lens_fv.finetuning.regularizers.penalties import Fisher, Importance, OrthogonalBlocks, ewc_penalty, fisher_information
from lens_fv.finetuning.run import UPDATES, FinetuneRun
from lens_fv.finetuning.settings import FinetuneConfig
from lens_fv.vectors import FunctionVector

IMPORTANCE = "importance.safetensors"
VECTORS = "vectors"
BATCHES = 50
"""Maximum number of a task's batches used to measure weight importance."""

Batches = Callable[[int], Iterator[Mapping[str, torch.Tensor]]]


def with_replay(examples: Sequence[list[Example]], share: float, seed: int) -> list[list[Example]]:
    """Replace a share of each task's examples by examples of earlier tasks, keeping the number of examples and steps."""
    found: list[list[Example]] = []
    for i, own in enumerate(examples):
        earlier = list(chain(*examples[:i]))
        n = min(round(share * len(own)), len(earlier))
        found.append(own[: len(own) - n] + random.Random(f"{seed}/replay/{i}").sample(earlier, n))
    return found


def keep_vectors(run: FinetuneRun, vectors: Mapping[str, FunctionVector] | None, settings: FinetuneConfig) -> None:
    """Save the vectors that guide each task in the run's folder; they must not change during the run.

    Raises:
        LensFVError: a task has no vector, or its vector belongs to another model or differs from the one that the run started
            with.
    """
    if not settings.guides or settings.guide is None or not settings.guide.needs_vector:
        return
    for name in run.tasks:
        file, vector = vector_file(run, name), (vectors or {}).get(name)
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
                f"go on with the run in {run.folder}: it was guided by another vector of {name}; choose another folder"
            )
        vector.save(file)


def forget_vectors(run: FinetuneRun) -> None:
    """Delete the saved vectors of a run that is restarted with other settings."""
    shutil.rmtree(run.folder / VECTORS, ignore_errors=True)


def vector_file(run: FinetuneRun, task: str) -> Path:
    """Return the path of the vector that guides a task."""
    return run.folder / VECTORS / f"{run.stage_folder(run.tasks.index(task)).name}.safetensors"


@contextmanager
def keeping(
    trained: Any,
    run: FinetuneRun,
    index: int,
    settings: FinetuneConfig,
    batches: Batches,
    swap_prompts: Sequence[Sequence[int]] = (),
) -> Iterator[dict[str, Any]]:
    """Yield the arguments of `guided(Trainer)` for one stage of a run.

    Args:
        trained: model being trained, in its state at the end of the previous stage unless this stage has already begun.
        run: fine-tuning run.
        index: index of the stage.
        settings: training settings of the run.
        batches: function that returns the batches of a stage.
        swap_prompts: instruction-swapped prompts of this stage for the guide.

    Raises:
        LensFVError: see `Guide`.
    """
    found: dict[str, Any] = {"guide": None, "penalties": []}
    orthogonal: OrthogonalBlocks | None = None
    if settings.guide is not None and settings.guides:
        # Before the first task there are no updates, so "previous" equals "base".
        guide = settings.guide if index else replace(settings.guide, teacher="base")
        vector = FunctionVector.load(vector_file(run, run.tasks[index])) if guide.needs_vector else None
        before = _before(run, index) if guide.teacher == "previous" else None
        found["guide"] = Guide(trained, vector, guide, previous=before, swap_prompts=swap_prompts)
    if settings.ewc and index:
        found["penalties"].append(
            ewc_penalty(trained, _importance(trained, run, index, batches, settings.fisher), settings.ewc)
        )
    if settings.orthogonal:
        orthogonal = OrthogonalBlocks(trained, settings.rank, index, settings.orthogonal)
        found["penalties"].append(orthogonal)
    try:
        yield found
    finally:
        if orthogonal is not None:
            orthogonal.close()


def _before(run: FinetuneRun, index: int) -> dict[str, torch.Tensor]:
    """Return the updates at the end of the previous stage, under PEFT's parameter names."""
    last = next(c for c in run.checkpoints if c.index == index - 1 and c.last)
    saved = read_tensors(last.folder / UPDATES)
    return {name.replace(".weight", ".default.weight"): value for name, value in saved.items()}


def _importance(trained: Any, run: FinetuneRun, index: int, batches: Batches, fisher: Fisher) -> Importance:
    """Return the accumulated weight importance of all previous stages, measured on each one's examples at its end and saved."""
    file = run.stage_folder(index - 1) / IMPORTANCE
    if not file.is_file():
        shown = [batch for batch, _ in zip(batches(index - 1), range(BATCHES), strict=False)]
        earlier = _read(run.stage_folder(index - 2) / IMPORTANCE) if index > 1 else None
        found = fisher_information(trained, shown, earlier, fisher=fisher)
        parts = {
            f"{kind}/{name}": value for name, both in found.items() for kind, value in zip(("f", "was"), both, strict=True)
        }
        write_atomically(file, save({name: value.cpu().contiguous() for name, value in parts.items()}))
    return _read(file)


def _read(file: Path) -> Importance:
    parts = read_tensors(file)
    return {name[2:]: (value, parts[f"was/{name[2:]}"]) for name, value in parts.items() if name.startswith("f/")}
