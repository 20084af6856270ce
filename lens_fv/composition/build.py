"""Vectors of many relations, made once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from lens_fv.composition.library import INDEX, Entry, VectorLibrary, read_index, write_index
from lens_fv.errors import LensFVError
from lens_fv.model.lens_model import LensModel
from lens_fv.patching import score_answers
from lens_fv.progress import progress_bar
from lens_fv.tasks import TODD, PromptTemplate, Task, split_pairs
from lens_fv.vectors import FunctionVector, tune_many
from lens_fv.vectors.extract import validation_prompts
from lens_fv.vectors.tune import LEARNING_RATES

TOGETHER = 8
"""Relations that train in the same passes: more fill the machine no better, and lose more when a run is stopped."""


def build_library(
    model: LensModel,
    tasks: Sequence[Task],
    folder: str | Path,
    *,
    layer: int | None = None,
    pairs: int = 20,
    steps: int = 40,
    learning_rate: float | Sequence[float] = LEARNING_RATES,
    template: PromptTemplate = TODD,
    seed: int = 0,
    progress: bool = False,
) -> VectorLibrary:
    """Tune a vector for every task, all at one layer, and keep them in a folder.

    What the folder already holds is not made again: a build that was stopped goes on where it was, and one with more tasks
    adds to it.

    Args:
        model: the model.
        tasks: the tasks, each with a name of its own; each is split by `split_pairs(task, seed=seed)`.
        folder: where vectors and index are written.
        layer: after which they are added; default: the middle one.
        pairs: see `tune`; of tasks whose training part is smaller, all of it.
        steps: see `tune`.
        learning_rate: see `tune`.
        template: how prompts are written.
        seed: of the splits.
        progress: draw a progress bar.

    Raises:
        LensFVError: the folder's vectors were made otherwise, a task there has changed, or what `tune_many` raises.
    """
    folder, at = Path(folder), round(0.5 * (model.n_layers - 1)) if layer is None else model.check_layer(layer)
    rates = [learning_rate] if isinstance(learning_rate, float | int) else list(learning_rate)
    settings: dict[str, Any] = {
        "model": model.name,
        "revision": model.revision,
        "weight_processing": model.weight_processing,
        "layer": at,
        "pairs": pairs,
        "steps": steps,
        "learning_rate": rates,
        "template": asdict(template),
        "seed": seed,
    }
    entries = _found(folder, settings)
    known = {entry.name: entry.task_hash for entry in entries}
    for task in tasks:
        if known.get(task.name, task.fingerprint) != task.fingerprint:
            raise LensFVError(
                f"build a library in {folder}: its vector of {task.name} is of other pairs; choose another folder"
            )
    splits = {task.name: split_pairs(task, seed=seed) for task in tasks if task.name not in known}
    todo = [task for task in tasks if task.name in splits]
    with progress_bar("library", len(todo), show=progress) as tick:
        for n, part in _parts(todo, {name: min(pairs, len(split.train)) for name, split in splits.items()}):
            made = tune_many(
                model,
                part,
                layer=at,
                pairs=n,
                steps=steps,
                learning_rate=rates,
                splits=splits,
                template=template,
                seed=seed,
            )
            for task, vector in zip(part, made, strict=True):
                file = vector.save(folder / f"{task.name}.safetensors")
                entries.append(_entry(model, task, vector, file, template, seed))
                tick()
            write_index(folder, settings, entries)
    return VectorLibrary.open(folder)


def _parts(tasks: Sequence[Task], pairs: Mapping[str, int]) -> Iterator[tuple[int, list[Task]]]:
    """Tasks that train together, with the number of pairs that each trains on."""
    for n, alike in groupby(sorted(tasks, key=lambda task: -pairs[task.name]), lambda task: pairs[task.name]):
        members = list(alike)
        for begin in range(0, len(members), TOGETHER):
            yield n, members[begin : begin + TOGETHER]


def _found(folder: Path, settings: dict[str, Any]) -> list[Entry]:
    if not (folder / INDEX).exists():
        return []
    index = read_index(folder)
    other = [key for key, value in settings.items() if index["settings"].get(key) != value]
    if other:
        was = ", ".join(f"{key} {index['settings'].get(key)} (asked: {settings[key]})" for key in other)
        raise LensFVError(f"build a library in {folder}: it holds one made with {was}; choose another folder")
    return [entry for entry in index["entries"] if entry.file.is_file()]


@torch.no_grad()
def _entry(model: LensModel, task: Task, vector: FunctionVector, file: Path, template: PromptTemplate, seed: int) -> Entry:
    prompts = validation_prompts(model, split_pairs(task, seed=seed), template)
    scores = score_answers(model, prompts, [[], vector.edits()])
    without, with_it = scores.logprob.mean(0).tolist()
    return Entry(
        name=task.name,
        file=file,
        model=model.name,
        group=task.group,
        family=task.family,
        task_hash=task.fingerprint,
        method=vector.provenance.method,
        layer=vector.layer,
        norm=vector.norm,
        logprob=with_it,
        gain=with_it - without,
        top1=float(scores.top1[:, 1].float().mean()),
    )
