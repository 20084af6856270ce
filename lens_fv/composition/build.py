"""Building a library, one vector per relation, each made once; and merging libraries."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from lens_fv.composition.index import INDEX, Entry, read_index, write_index
from lens_fv.composition.library import VectorLibrary
from lens_fv.composition.recipes import Recipe, TuneRecipe
from lens_fv.core.choices import Seed, checked
from lens_fv.core.files import file_name, folder_lock, write_atomically
from lens_fv.core.json_files import read_json
from lens_fv.core.progress import progress_bar
from lens_fv.core.store import differences
from lens_fv.errors import LensFVError
from lens_fv.model.lens_model import LensModel
from lens_fv.patching import score_answers
from lens_fv.tasks import TODD, PromptTemplate, Task, split_pairs
from lens_fv.vectors import FunctionVector
from lens_fv.vectors.examples import validation_prompts

PLAN = ".plan.json"
"""File that lists the tasks of an unfinished build."""


@checked
def build_library(
    model: LensModel,
    tasks: Sequence[Task],
    folder: str | Path,
    recipe: Recipe | None = None,
    *,
    template: PromptTemplate = TODD,
    seed: Seed = 0,
    progress: bool = False,
) -> VectorLibrary:
    """Make a vector for every task and save them in a folder.

    Each vector is saved as soon as it is made, and vectors already in the folder are kept. An interrupted build therefore
    resumes and gives the same vectors, and a build with more tasks extends the library.

    Args:
        model: Model that the vectors are made for.
        tasks: Tasks with distinct names; each is split by `split_pairs(task, seed=seed)`.
        folder: Folder for vectors and index.
        recipe: Method that makes the vectors; default: `TuneRecipe()`.
        template: Prompt template.
        seed: Seed of the splits and of the recipe's random draws.
        progress: Show a progress bar.

    Raises:
        LensFVError: the folder's vectors were made with other settings, a task there has changed, another process is building
            there, or the recipe raises.

    Example:
        >>> recipe = lens_fv.composition.TuneRecipe(layer=1, n_pairs=4, steps=2)
        >>> library = lens_fv.build_library(model, [task], folder / 'library', recipe)
        >>> library.names
        ('toy',)
    """
    folder, recipe = Path(folder), (recipe or TuneRecipe()).resolved(model)
    # Through JSON, to match the index, in which tuples are lists.
    settings: dict[str, Any] = json.loads(
        json.dumps(
            {
                "model": model.name,
                "revision": model.revision,
                "fingerprint": model.fingerprint,
                "weight_processing": model.weight_processing,
                "recipe": type(recipe).__name__,
                **vars(recipe),
                "template": asdict(template),
                "seed": seed,
            }
        )
    )
    with folder_lock(folder, what="build a library"):
        entries = _existing_entries(folder, settings)
        known = {entry.name: entry.task_hash for entry in entries}
        for task in tasks:
            if known.get(task.name, task.fingerprint) != task.fingerprint:
                raise LensFVError(
                    f"build a library in {folder}: its vector of {task.name} is of other pairs; choose another folder"
                )
        splits = {task.name: split_pairs(task, seed=seed) for task in tasks}
        files = {task.name: folder / f"{file_name(task.name)}.safetensors" for task in tasks if task.name not in known}
        started = _write_plan(folder, settings, entries, files) if files else set[str]()
        groups = chain.from_iterable(
            recipe.parts([task for task in tasks if task.name in names], splits) for names in (started, files.keys() - started)
        )
        with progress_bar("library", len(files), show=progress) as tick:
            for group in groups:
                missing = [task for task in group if task.name in files]
                if not all(files[task.name].is_file() for task in missing):
                    vectors = recipe.make(model, group, splits, template=template, seed=seed)
                    for task, vector in zip(group, vectors, strict=True):
                        if task in missing:
                            vector.save(files[task.name])
                for task in missing:
                    vector = FunctionVector.load(files[task.name])
                    entries.append(_entry(model, task, vector, files[task.name], template, seed))
                    write_index(folder, settings, entries)
                    tick()
        (folder / PLAN).unlink(missing_ok=True)
    return VectorLibrary.load(folder)


def _write_plan(folder: Path, settings: dict[str, Any], entries: Sequence[Entry], files: Mapping[str, Path]) -> set[str]:
    """Record the tasks of a build, and return those that an interrupted build had started with.

    Tasks that train together do so again after an interruption, because other groupings change the vectors by rounding. A file
    without a plan was not made by a build.
    """
    path, remedy = folder / PLAN, "delete it; vectors that the index does not list are made again"
    started: list[str] = read_json(path, list[str], what="the plan of a library", remedy=remedy) if path.is_file() else []
    for name in files.keys() - started:
        files[name].unlink(missing_ok=True)
    write_index(folder, settings, entries)
    write_atomically(path, json.dumps(list(dict.fromkeys([*started, *files])), ensure_ascii=False))
    return set(started)


def _existing_entries(folder: Path, settings: dict[str, Any]) -> list[Entry]:
    """The entries of a folder's index whose files exist; the index must be one of the same settings."""
    if not (folder / INDEX).exists():
        return []
    index = read_index(folder)
    if "fingerprint" not in index.settings:  # written before fingerprints existed
        settings = {key: value for key, value in settings.items() if key != "fingerprint"}
    if other := differences({key: index.settings.get(key) for key in settings}, settings):
        if not index.entries:  # a build that failed before its first vector
            (folder / PLAN).unlink(missing_ok=True)
            return []
        raise LensFVError(f"build a library in {folder}: it holds one made with {', '.join(other)}; choose another folder")
    return [entry for entry in index.entries if entry.file.is_file()]


@torch.no_grad()
def _entry(model: LensModel, task: Task, vector: FunctionVector, file: Path, template: PromptTemplate, seed: int) -> Entry:
    prompts = validation_prompts(model, split_pairs(task, seed=seed), template)
    scores = score_answers(model, prompts, [[], vector.edits()])
    plain, steered = scores.logprob.mean(0).tolist()
    return Entry(
        name=task.name,
        file=file,
        model=model.name,
        fingerprint=vector.provenance.fingerprint,
        group=task.group,
        family=task.family,
        task_hash=task.fingerprint,
        method=vector.provenance.method,
        layer=vector.layer,
        norm=vector.norm,
        logprob=steered,
        gain=steered - plain,
        top1=float(scores.top1[:, 1].float().mean()),
    )


@checked
def merge_libraries(folders: Sequence[str | Path], folder: str | Path) -> VectorLibrary:
    """Merge libraries made with the same settings into one, in a folder without a library.

    Args:
        folders: Folders of the libraries, at least two.
        folder: Folder for the merged library.

    Raises:
        LensFVError: the libraries differ in model or settings, two have a vector of the same name, a vector is damaged, or
            the folder already holds a library.

    Example:
        >>> recipe = lens_fv.composition.TuneRecipe(layer=1, n_pairs=4, steps=2)
        >>> _ = lens_fv.build_library(model, [task], folder / 'first', recipe)
        >>> _ = lens_fv.build_library(model, [lens_fv.load_task('antonym')], folder / 'second', recipe)
        >>> lens_fv.composition.merge_libraries([folder / 'first', folder / 'second'], folder / 'both').names
        ('toy', 'antonym')
    """
    paths = [Path(path) for path in folders]
    if len(paths) < 2:
        raise LensFVError(f"merge {len(paths)} libraries: give at least two")
    first, *others = [read_index(path) for path in paths]
    for path, other in zip(paths[1:], others, strict=True):
        different = differences(first.settings, other.settings, after_is=str(path))
        if not different and not other.settings and first.entries and other.entries:  # copies do not record their settings
            different = differences(_common_values(first.entries), _common_values(other.entries), after_is=str(path))
        if different:
            raise LensFVError(
                f"merge libraries: {paths[0]} was made with {', '.join(different)}; vectors that are made otherwise do not go "
                "together"
            )
    merged = VectorLibrary(tuple(entry for index in (first, *others) for entry in index.entries)).save(folder)
    write_index(Path(folder), first.settings, merged.entries)
    return merged


def _common_values(entries: Sequence[Entry]) -> dict[str, str]:
    """What all vectors of a library should share, as far as their entries tell."""
    return {
        field: ", ".join(sorted({str(getattr(entry, field)) for entry in entries}))
        for field in ("model", "fingerprint", "method")
    }
