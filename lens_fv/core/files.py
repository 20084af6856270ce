"""Files and folders that appear whole or not at all, and what they may be called."""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

from filelock import FileLock, Timeout

from lens_fv.errors import LensFVError

MOST_NAME = 100
"""Bytes of a name that become part of a file's, which can have 255."""


def file_name(name: str) -> str:
    """A name of a task, a model or a checkpoint as (part of) one file's or folder's name: what every path is made with.

    Plain names stay as they are. Of others, letters, digits, `_`, `.` and `-` stay, and a hash is added, so that two names
    never become one.

    Example:
        >>> file_name("present-past"), file_name("../../escaped")
        ('present-past', 'escaped-ea03bc47')
    """
    plain = re.sub(r"[^\w.-]+", "-", name).strip("-.")
    while len(plain.encode()) > MOST_NAME:
        plain = plain[:-1]
    return plain if plain == name and plain else f"{plain or 'name'}-{sha256(name.encode(errors='replace')).hexdigest()[:8]}"


def inside(folder: Path, name: str, *, what: str) -> Path:
    """The path of a file that something in `folder` names: one that lies there.

    Args:
        folder: where it has to be.
        name: as it was read.
        what: names it, for the message: "the library's index".

    Raises:
        LensFVError: the name is a path, of another folder or of none.
    """
    if name in ("", ".", "..") or re.search(r"[/\\\0]", name) or Path(name).name != name:
        raise LensFVError(f"{what} in {folder} names the file {ascii(name)[:80]}: only files of the same folder are read")
    return folder / name


def write_whole(path: Path, content: str | bytes | Callable[[Path], object]) -> Path:
    """Write a file beside its place and rename it into it.

    Args:
        path: its place; folders are made.
        content: text (UTF-8), bytes, or a function that writes to the path it is given.

    Raises:
        LensFVError: the folder or the file cannot be written to.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(beside)
            beside.chmod(0o666 & ~_umask())  # safetensors makes files that only their owner can read
        else:
            beside.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(beside, path)
    except Exception as e:
        # besides what a disk refuses: a name with a NUL, or text that no file can hold
        trouble = str(e) if isinstance(e, ValueError) else disk_trouble(e)
        if trouble is None:
            raise
        raise LensFVError(f"write {path}: {trouble}; choose a folder that can be written to") from e
    finally:
        with contextlib.suppress(OSError, ValueError):  # its folder may be what is wrong
            beside.unlink(missing_ok=True)
    return path


@contextlib.contextmanager
def new_folder(folder: str | Path, *, what: str) -> Iterator[Path]:
    """A folder to fill, beside its place; it is renamed into it at the end of the block, or removed if that fails.

    Args:
        folder: its place; the folders above it are made.
        what: is done, for errors: "export".

    Raises:
        LensFVError: it is there already, or its place cannot be written to.
    """
    folder = Path(folder)
    if folder.exists():
        raise LensFVError(f"{what} to {folder}: it is there already; choose another folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        beside.chmod(0o777 & ~_umask())  # as any folder; temporary ones are their owner's alone
    except OSError as e:
        raise LensFVError(f"{what} to {folder}: {e.strerror or e}; choose a folder that can be written to") from e
    try:
        with on_disk(f"{what} to {folder}", otherwise="make room, or choose another folder"):
            yield beside
            beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextlib.contextmanager
def one_writer(path: Path) -> Iterator[None]:
    """Inside the block no other process writes the file that does so inside such a block; it waits.

    Where the file system has no locks, or nothing can be written, nobody waits.
    """
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    with contextlib.suppress(OSError, NotImplementedError):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def held(folder: str | Path, *, what: str) -> Iterator[None]:
    """A folder in which nobody else works during the block: what two processes write there would be mixed up.

    Args:
        folder: is made if it is not there.
        what: is done, for errors: "fine-tune".

    Raises:
        LensFVError: another process works there.
    """
    lock = FileLock(Path(folder) / ".lock", timeout=0)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise LensFVError(f"{what} in {folder}: another process works there; wait for it, or choose another folder") from None
    except (OSError, NotImplementedError):
        pass  # nothing can be written there, as whoever tries will be told; or the file system has no locks
    try:
        yield
    finally:
        lock.release()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextlib.contextmanager
def on_disk(what: str, *, otherwise: str) -> Iterator[None]:
    """What a full disk, or one that cannot be written to, makes libraries raise in the block becomes an error of one line.

    Args:
        what: is done, for the error: "fine-tune in mine".
        otherwise: what the user can do.

    Raises:
        LensFVError: the disk is what is wrong.
    """
    try:
        yield
    except Exception as e:
        if isinstance(e, LensFVError) or (trouble := disk_trouble(e)) is None:
            raise
        raise LensFVError(f"{what}: {trouble}; {otherwise}") from e


def disk_trouble(error: BaseException) -> str | None:
    """What the disk said, if that is what an error is about: libraries that write weights have errors of their own for it."""
    said = " ".join(str(error).split())
    if isinstance(error, OSError):
        return error.strerror or said
    if type(error).__name__ == "SafetensorError" and (found := re.search(r"([A-Z][\w ]+) \(os error \d+\)", said)):
        return found[1]
    if isinstance(error, RuntimeError) and re.search("PytorchStreamWriter|inline_container|iostream error", said):
        return "a file could not be written whole"
    return None
