"""The result store: artefacts made in the same way are loaded, not recomputed, and a run is resumed with its own settings."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from lens_fv.core.artefact import Artefact, Provenance
from lens_fv.core.files import file_name, write_atomically
from lens_fv.core.json_files import read_json
from lens_fv.errors import LensFVError

A = TypeVar("A", bound=Artefact)


def artefact_path(folder: str | Path, kind: type[Artefact], provenance: Provenance) -> Path:
    """Path of an artefact with this kind and provenance; software versions are ignored.

    Results of a different model (name or weights), task, seed, prompt or option get a different file name, so none is
    mistaken for another or overwritten.
    """
    fields = {name: value for name, value in asdict(provenance).items() if name != "versions"}
    key = sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]
    return Path(folder) / f"{file_name(provenance.task)}-{kind.__name__}-{key}.safetensors"


def load_or_compute(folder: str | Path | None, kind: type[A], provenance: Provenance, make: Callable[[], A]) -> A:
    """Load the artefact from `folder`, or make it and save it there; without a folder, make it and save nothing.

    Raises:
        LensFVError: the file is damaged (delete it) or cannot be written.
    """
    if folder is None:
        return make()
    path = artefact_path(folder, kind, provenance)
    if path.is_file():
        return kind.load(path)
    artefact = make()
    artefact.save(path)
    return artefact


def recorded_settings(path: Path) -> dict[str, Any]:
    """The settings that a run was started with; empty if it has not been started.

    Raises:
        LensFVError: the file is damaged.
    """
    return read_json(path, dict, what="the settings of a run", remedy="choose another folder") if path.is_file() else {}


def check_settings(
    path: Path, settings: Mapping[str, Any], *, may_grow: str | None = None, may_change: Collection[str] = ()
) -> None:
    """Record the settings of a new run, or check that a resumed run uses the settings it was started with.

    Args:
        path: Settings file in the run's folder.
        settings: Settings, as JSON values.
        may_grow: Name of a list setting that may gain elements at its end.
        may_change: Names of settings that may differ.

    Raises:
        LensFVError: the run was started with other settings.
    """
    requested = json.loads(json.dumps(settings))
    before = {key: value for key, value in recorded_settings(path).items() if key not in may_change}
    if may_grow is not None and isinstance(old := before.get(may_grow), list) and requested[may_grow][: len(old)] == old:
        before.pop(may_grow)
    if changed := differences(before, {key: requested.get(key) for key in before}):
        raise LensFVError(f"resume in {path.parent}: it was run with {', '.join(changed)}; choose another folder")
    write_atomically(path, json.dumps(requested, indent=1))


def differences(before: Mapping[str, Any], after: Mapping[str, Any], *, after_is: str = "requested") -> list[str]:
    """Differences between two JSON settings, each with its path, such as "guide.heads 1.0 (requested: 2.0)"."""
    changes: list[str] = []
    for key in dict.fromkeys([*before, *after]):
        old, new = before.get(key), after.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            changes += [f"{key}.{change}" for change in differences(old, new, after_is=after_is)]
        elif old != new:
            changes.append(f"{key} {_brief(old)} ({after_is}: {_brief(new)})")
    return changes


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
