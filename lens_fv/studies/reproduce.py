"""Running a study on one or several models, and its page."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from lens_fv.core.choices import Count, Seed, nearest
from lens_fv.core.json_files import validated
from lens_fv.errors import LensFVError
from lens_fv.model import load_model
from lens_fv.studies.study import Results, Study, check_parts, load_study, run_folders


class Reproduction(NamedTuple):
    """What a study's run left.

    Attributes:
        page: The page.
        folders: Folder of each model's run, by the model's name.
        models: Main numbers of each model; see `Study.headline`.
    """

    page: Path
    folders: dict[str, Path]
    models: dict[str, Mapping[str, Any]]


def reproduce(
    study: str,
    models: Sequence[str] = (),
    *,
    folder: str | Path,
    out: str | Path = Path("docs/results"),
    parts: Sequence[str] = (),
    settings: Mapping[str, str] | None = None,
    n_seeds: Count | None = None,
    first_seed: Seed = 0,
    quick: bool = False,
    report_only: bool = False,
    device: str | None = None,
    dtype: str | None = None,
    progress: bool = False,
) -> Reproduction:
    """Run or resume a study on each model, and write its page. Several workers may run the same study in one folder.

    Args:
        study: Name of the study; see `STUDIES`.
        models: Models to study, one after another; default: those of the study, or those in `folder` if `report_only`.
        folder: Folder for vectors and rows, with a subfolder for each model.
        out: Folder for the page.
        parts: Parts to run; default: all.
        settings: Settings that differ from the study's own, as texts by name: JSON, or values separated by commas.
        n_seeds: Number of seeds; default: as many as the study has.
        first_seed: First seed.
        quick: Run a small version: one seed, few tasks, prompts, steps and items.
        report_only: Write the page from the rows in the folder (of the models given, if any) without loading a model.
        device: See `load_model`.
        dtype: See `load_model`.
        progress: Show progress bars.

    Raises:
        LensFVError: no such study, part or setting, a folder with a run of other settings, or whatever a part raises.
    """
    kind = load_study(study)
    folders = run_folders(models or (() if report_only else kind.models), Path(folder))
    if not report_only:
        check_parts(parts, kind.parts)
        chosen = study_settings(kind, settings or {}, quick=quick)
        if n_seeds or first_seed:
            chosen = replace(chosen, seeds=tuple(range(first_seed, first_seed + (n_seeds or len(chosen.seeds)))))
        for name, place in folders.items():
            model = load_model(name, device=device, dtype=dtype)
            kind(model, place, chosen, source=name, progress=progress).run(parts)
    from lens_fv.studies.render import write_page  # draws

    page = write_page(kind, folders, Path(out))
    runs = [Results(place, name) for name, place in folders.items()]
    return Reproduction(page, folders, {run.name: kind.headline(kind.view(run), run) for run in runs})


def study_settings(study: type[Study[Any]], changes: Mapping[str, str], *, quick: bool = False) -> Any:
    """A study's settings with some of them changed.

    Args:
        study: The study.
        changes: Values as texts by the setting's name: JSON, or values separated by commas.
        quick: Start from the settings of the small version.

    Raises:
        LensFVError: an unknown setting, or a value of another type.
    """
    settings = study.settings_type.quick() if quick else study.settings_type()
    types = {field.name: field.type for field in fields(settings)}
    values: dict[str, Any] = {}
    for name, text in changes.items():
        if name not in types:
            raise LensFVError(
                f"set {name} of the study {study.name}: its settings are {', '.join(types)}{nearest(name, types)}"
            )
        separated = isinstance(getattr(settings, name), tuple) and not text.startswith("[")
        value = [_value(part) for part in text.split(",")] if separated else _value(text)
        values[name] = validated(value, types[name], f"set {name} of the study {study.name}", remedy="change the value")
    return replace(settings, **values)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
