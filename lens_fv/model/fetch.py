"""The cache of default models: each is downloaded, verified and dequantised once, and stored completely or not at all."""

import contextlib
import json
import logging
import os
import shutil
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import platformdirs
from filelock import FileLock

from lens_fv.core.files import explain_disk_errors, path_inside, write_atomically
from lens_fv.core.json_files import read_json
from lens_fv.errors import LensFVError
from lens_fv.model.download import convert_gguf, download_weights, sha256_of
from lens_fv.model.registry import DEFAULT_MODELS, ModelEntry

MANIFEST = "manifest.json"
CHECKED = "checked.json"
FORMAT = 1
SETTLED_NS = 2_000_000_000
"""Nanoseconds after which file times are reliable; the coarsest file systems resolve two seconds."""
log = logging.getLogger("lens_fv")


@dataclass(frozen=True)
class FileRecord:
    """Size and checksum of a file when it was written."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The checked part of a cached model's manifest."""

    format: int
    gguf_sha256: str
    files: dict[str, FileRecord]


@dataclass(frozen=True)
class ModelStatus:
    """A default model, and whether its weights are already on this machine."""

    name: str
    title: str
    licence: str
    size_mb: int
    cached: bool
    path: Path


def list_models(cache_dir: str | os.PathLike[str] | None = None) -> list[ModelStatus]:
    """List the default models; `path` is each one's folder in the cache, existing or not.

    Example:
        >>> [status.name for status in lens_fv.list_models()]
        ['smollm2-135m', 'gemma-3-270m']
    """
    return [
        ModelStatus(
            name=entry.name,
            title=entry.title,
            licence=entry.licence,
            size_mb=entry.size_mb,
            cached=check_cached(entry, cache_dir=cache_dir, full=False) is None,
            path=model_folder(entry, cache_dir),
        )
        for entry in DEFAULT_MODELS.values()
    ]


def model_folder(entry: ModelEntry, cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return a model's folder in the cache: under `cache_dir`, else `$LENS_FV_CACHE`, else the user's cache folder."""
    root = cache_dir or os.environ.get("LENS_FV_CACHE") or platformdirs.user_cache_dir("lens_fv")
    return Path(root).expanduser() / "models" / entry.name


def check_cached(entry: ModelEntry, *, cache_dir: str | os.PathLike[str] | None = None, full: bool = True) -> str | None:
    """Describe the problem with a model's cached copy in a few words; None if it is intact.

    Every file is read in full and compared with its checksum. With `full=False`, weights (with a checksum that takes a second
    or more) are not read again if they passed before and have the same size, inode and change times. The result is stored next
    to them in `checked.json`, if the cache is writable.
    """
    folder = model_folder(entry, cache_dir)
    if not folder.is_dir():
        return "it is not in the cache"
    try:
        manifest = read_json(folder / MANIFEST, Manifest)
    except LensFVError:
        return f"its {MANIFEST} cannot be read"
    if manifest.format != FORMAT or manifest.gguf_sha256 != entry.gguf_sha256:
        return "it was made from other weights or by another version of lens_fv"
    before = {} if full else _checked_before(folder)
    passed: dict[str, tuple[int, ...]] = {}
    try:
        for name, facts in manifest.files.items():
            file = path_inside(folder, name, what=MANIFEST)
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != facts.size:
                return f"{name} has {file.stat().st_size} bytes instead of {facts.size}"
            identity = _identity(file)
            if (file.suffix != ".safetensors" or before.get(name) != identity) and sha256_of(file) != facts.sha256:
                return f"{name} does not have the checksum it was written with"
            if file.suffix == ".safetensors" and _settled(identity):
                passed[name] = identity
    except (OSError, LensFVError) as error:
        return f"it cannot be read ({error})"
    if passed != before:
        with contextlib.suppress(LensFVError):  # a read-only cache
            write_atomically(folder / CHECKED, json.dumps(passed))
    return None


def _checked_before(folder: Path) -> dict[str, tuple[int, ...]]:
    """Identities of the files that passed their last full check."""
    try:
        return read_json(folder / CHECKED, dict[str, tuple[int, ...]])
    except LensFVError:
        return {}


def _identity(file: Path) -> tuple[int, ...]:
    """Values that change whenever a file is written; the time of last status change cannot be set by hand."""
    facts = file.stat()
    return (facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino)


def _settled(identity: tuple[int, ...]) -> bool:
    """Whether the file's last change is old enough that a later one must have a different time."""
    return time.time_ns() - max(identity[1:3]) > SETTLED_NS


def ensure_model(entry: ModelEntry, *, cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of a default model in Hugging Face format (float32), creating it unless an intact copy exists.

    An incomplete or damaged copy is replaced. Concurrent processes wait for the one that creates it.

    Raises:
        LensFVError: the weights cannot be downloaded, verified, converted or written.
    """
    folder = model_folder(entry, cache_dir)
    if check_cached(entry, cache_dir=cache_dir, full=False) is None:
        return folder  # without the lock, so that a read-only cache works
    needed_mb = entry.size_mb + 3 * entry.download_mb
    with explain_disk_errors(
        f"model {entry.name!r}: cannot write the cache folder {folder}",
        otherwise=f"it takes {needed_mb} MB while it is made: make room, or set LENS_FV_CACHE to another folder",
    ):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f"{entry.name}.lock"):
            problem = check_cached(entry, cache_dir=cache_dir, full=False)
            if problem is not None:  # no other process made it while we waited
                log.info("model %s: %s; fetching it into %s", entry.name, problem, folder)
                _build(entry, folder)
    return folder


def _build(entry: ModelEntry, folder: Path) -> None:
    """Create the model in a temporary folder and move it into place in one step, so that it is never incomplete."""
    part, old = folder.with_name(f"{entry.name}.part"), folder.with_name(f"{entry.name}.old")
    for leftover in (part, old):  # left by a killed run; we hold the lock, so they are unused
        shutil.rmtree(leftover, ignore_errors=True)
    model = part / "model"
    model.mkdir(parents=True)
    try:
        convert_gguf(download_weights(entry, part, documents=model), model, n_parameters=entry.n_parameters)
        _write_manifest(entry, model)
        if folder.exists():
            os.replace(folder, old)
        os.replace(model, folder)
    finally:
        for leftover in (part, old):
            shutil.rmtree(leftover, ignore_errors=True)


def _write_manifest(entry: ModelEntry, folder: Path) -> None:
    """Write the manifest last, after all listed files have reached the disk."""
    files = sorted(folder.iterdir())
    manifest = {
        "format": FORMAT,
        "name": entry.name,
        "revision": entry.revision,
        "licence": entry.licence,
        "wheels": {wheel.requirement: wheel.sha256 for wheel in entry.wheels},
        "gguf_sha256": entry.gguf_sha256,
        "libraries": {name: version(name) for name in ("transformers", "gguf", "torch")},
        "files": {file.name: {"size": file.stat().st_size, "sha256": sha256_of(file)} for file in files},
    }
    for file in files:
        shutil.copymode(folder / "config.json", file)  # safetensors makes files readable only by their owner
        _sync(file)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    _sync(folder / MANIFEST)


def _sync(file: Path) -> None:
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())
