"""The cache of default models: each is fetched, checked and dequantised once, and is there in full or not at all."""

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
from safetensors import SafetensorError

from lens_fv.core.files import inside, write_whole
from lens_fv.core.json_files import read_json
from lens_fv.errors import LensFVError
from lens_fv.model.convert import convert_gguf
from lens_fv.model.download import download_weights, sha256_of
from lens_fv.model.registry import DEFAULT_MODELS, ModelEntry

MANIFEST = "manifest.json"
CHECKED = "checked.json"
FORMAT = 1
SETTLED_NS = 2_000_000_000
"""The coarsest times of files in use are two seconds apart."""
log = logging.getLogger("lens_fv")


@dataclass(frozen=True)
class Written:
    """A file as it was written."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a cached model says of itself, as far as it is checked."""

    format: int
    gguf_sha256: str
    files: dict[str, Written]


@dataclass(frozen=True)
class ModelStatus:
    """A default model and whether its weights are on this machine already."""

    name: str
    title: str
    licence: str
    size_mb: int
    cached: bool
    path: Path


def list_models(cache_dir: str | os.PathLike[str] | None = None) -> list[ModelStatus]:
    """The default models; `path` is where the cache holds, or would hold, each."""
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
    """Where the cache keeps a model: under `cache_dir`, else `$LENS_FV_CACHE`, else the user's cache folder."""
    root = cache_dir or os.environ.get("LENS_FV_CACHE") or platformdirs.user_cache_dir("lens_fv")
    return Path(root).expanduser() / "models" / entry.name


def check_cached(entry: ModelEntry, *, cache_dir: str | os.PathLike[str] | None = None, full: bool = True) -> str | None:
    """What is wrong with the cached copy of a model, in a few words; None if nothing is.

    Every file is read in full and compared with its checksum. With `full=False` weights (whose checksum takes a second or
    more) are not read again if they were found in order before and are the same file since: of the same size, inode, and
    times of change. What was found is remembered beside them, in `checked.json`, if the cache can be written to.
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
    found: dict[str, tuple[int, ...]] = {}
    try:
        for name, facts in manifest.files.items():
            file = inside(folder, name, what=MANIFEST)
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != facts.size:
                return f"{name} has {file.stat().st_size} bytes instead of {facts.size}"
            seen = _identity(file)
            if (file.suffix != ".safetensors" or before.get(name) != seen) and sha256_of(file) != facts.sha256:
                return f"{name} does not have the checksum it was written with"
            if file.suffix == ".safetensors" and _settled(seen):
                found[name] = seen
    except (OSError, LensFVError) as error:
        return f"it cannot be read ({error})"
    if found != before:
        with contextlib.suppress(LensFVError):  # a cache that may only be read
            write_whole(folder / CHECKED, json.dumps(found))
    return None


def _checked_before(folder: Path) -> dict[str, tuple[int, ...]]:
    """The files that were in order when they were last read in full, as they were then."""
    try:
        return read_json(folder / CHECKED, dict[str, tuple[int, ...]])
    except LensFVError:
        return {}


def _identity(file: Path) -> tuple[int, ...]:
    """What changes whenever a file is written to: the time of its last change cannot be set by hand."""
    facts = file.stat()
    return (facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino)


def _settled(seen: tuple[int, ...]) -> bool:
    """Whether the file's last change is long enough ago for a later one to have another time."""
    return time.time_ns() - max(seen[1:3]) > SETTLED_NS


def ensure_model(entry: ModelEntry, *, cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder of a default model in Hugging Face format (float32), made now unless it is there in good order.

    A copy that is incomplete or damaged is replaced. Processes that ask at the same time wait for the one that works.

    Raises:
        LensFVError: the weights cannot be downloaded, verified, converted or written.
    """
    folder = model_folder(entry, cache_dir)
    if check_cached(entry, cache_dir=cache_dir, full=False) is None:
        return folder  # without the lock, so that a cache that may only be read will do
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f"{entry.name}.lock"):
            problem = check_cached(entry, cache_dir=cache_dir, full=False)
            if problem is not None:  # nobody else has made it while we waited
                log.info("model %s: %s; fetching it into %s", entry.name, problem, folder)
                _build(entry, folder)
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk in its own class
        reason = getattr(error, "strerror", None) or error
        raise LensFVError(
            f"model {entry.name!r}: cannot write the cache folder {folder} ({reason}); it takes "
            f"{entry.size_mb + 3 * entry.download_mb} MB while it is made: make room, or set LENS_FV_CACHE to another folder"
        ) from error
    return folder


def _build(entry: ModelEntry, folder: Path) -> None:
    """Make the model beside its place and move it there in one step, so that no half of it is ever seen."""
    part, old = folder.with_name(f"{entry.name}.part"), folder.with_name(f"{entry.name}.old")
    for leftover in (part, old):  # of a run that was killed: we hold the lock, so nobody is using them
        shutil.rmtree(leftover, ignore_errors=True)
    made = part / "model"
    made.mkdir(parents=True)
    try:
        convert_gguf(download_weights(entry, part, documents=made), made, n_parameters=entry.n_parameters)
        _write_manifest(entry, made)
        if folder.exists():
            os.replace(folder, old)
        os.replace(made, folder)
    finally:
        for leftover in (part, old):
            shutil.rmtree(leftover, ignore_errors=True)


def _write_manifest(entry: ModelEntry, folder: Path) -> None:
    """Written last, after everything it speaks of has reached the disk."""
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
        shutil.copymode(folder / "config.json", file)  # safetensors writes files that only their owner may read
        _sync(file)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    _sync(folder / MANIFEST)


def _sync(file: Path) -> None:
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())
