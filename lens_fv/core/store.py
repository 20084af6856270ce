"""The result store: results made in the same way are loaded, not recomputed. Artefacts are files; values have keys."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from lens_fv.core.artefact import Artefact, Provenance
from lens_fv.core.files import file_lock, file_name, write_atomically
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
    before = {key: value for key, value in ResultStore(path).items() if key not in may_change}
    if may_grow is not None and requested[may_grow][: len(before.get(may_grow, ()))] == before.get(may_grow):
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


class ResultStore:
    """Values by key in one JSON file, one line each. The file is complete after every addition.

    Several processes may add to one file without losing each other's values.

    Raises:
        LensFVError: the file is not a result store.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values = self._load()

    def get_or_compute(self, key: str, make: Callable[[], Any]) -> Any:
        """The value of a key; computed and written if it is not stored yet."""
        if key not in self._values:
            self._values |= self._load()
        if key not in self._values:
            # Through JSON, so that a new value equals the one read later.
            value = json.loads(json.dumps(make()))
            with file_lock(self._path):
                self._values |= self._load()
                self._values.setdefault(key, value)
                write_atomically(self._path, _lines(self._values))
        return self._values[key]

    def _load(self) -> dict[str, Any]:
        if not self._path.is_file():
            return {}
        return read_json(self._path, dict, what="records", remedy="delete it, what it held is made again")

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __len__(self) -> int:
        return len(self._values)

    def items(self) -> Iterator[tuple[str, Any]]:
        """Keys and values, in the order in which they were added."""
        yield from self._values.items()


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _lines(values: Mapping[str, Any]) -> str:
    """JSON with one line per value, so that a diff shows which are new."""

    def dumped(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False)

    return "{\n" + ",\n".join(f"{dumped(key)}: {dumped(value)}" for key, value in values.items()) + "\n}\n"
