"""Atomic writing of files and folders, locks, and safe file names."""

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

MAX_NAME = 100
"""Maximum length of a name within a file name, in bytes; file systems allow 255 in total."""


def file_name(name: str) -> str:
    """Turn the name of a task, model or checkpoint into (part of) a file or folder name; every path is built with it.

    Plain names are unchanged. In other names every character except letters, digits, `_`, `.` and `-` is replaced, and a
    hash is added so that two names never coincide.

    Example:
        >>> file_name("present-past"), file_name("../../escaped")
        ('present-past', 'escaped-ea03bc47')
    """
    plain = re.sub(r"[^\w.-]+", "-", name).strip("-.")
    while len(plain.encode()) > MAX_NAME:
        plain = plain[:-1]
    return plain if plain == name and plain else f"{plain or 'name'}-{sha256(name.encode(errors='replace')).hexdigest()[:8]}"


def path_inside(folder: Path, name: str, *, what: str) -> Path:
    """Resolve a file name read from a file in `folder`; only files of that folder are accepted.

    Args:
        folder: Folder that has to contain the file.
        name: Name as it was read.
        what: What the name was read from, for the message: "the library's index".

    Raises:
        LensFVError: the name is empty or contains a path.
    """
    if name in ("", ".", "..") or re.search(r"[/\\\0]", name) or Path(name).name != name:
        raise LensFVError(f"{what} in {folder} names the file {ascii(name)[:80]}: only files of the same folder are read")
    return folder / name


def write_atomically(path: Path, content: str | bytes | Callable[[Path], object]) -> Path:
    """Write a file atomically: under a temporary name in the same folder, then renamed.

    Args:
        path: Path of the file; missing folders are created.
        content: Text (UTF-8), bytes, or a function that writes to the path it is given.

    Raises:
        LensFVError: the folder or the file cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(temporary)
            temporary.chmod(0o666 & ~_umask())  # safetensors creates files that only their owner can read
        else:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    except Exception as e:
        # ValueError: a name with a NUL, or text that cannot be encoded
        reason = str(e) if isinstance(e, ValueError) else disk_error(e)
        if reason is None:
            raise
        raise LensFVError(f"write {path}: {reason}; choose a folder that can be written to") from e
    finally:
        with contextlib.suppress(OSError, ValueError):  # the folder itself may be the problem
            temporary.unlink(missing_ok=True)
    return path


@contextlib.contextmanager
def atomic_folder(folder: str | Path, *, what: str) -> Iterator[Path]:
    """Yield a temporary folder to fill. It is renamed to `folder` when the block ends, or removed if the block fails.

    Args:
        folder: Final path; missing parent folders are created.
        what: The operation, for error messages: "export".

    Raises:
        LensFVError: the folder exists already or cannot be written.
    """
    folder = Path(folder)
    if folder.exists():
        raise LensFVError(f"{what} to {folder}: it is there already; choose another folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        temporary.chmod(0o777 & ~_umask())  # usual permissions; temporary folders are private to their owner
    except OSError as e:
        raise LensFVError(f"{what} to {folder}: {e.strerror or e}; choose a folder that can be written to") from e
    try:
        with explain_disk_errors(f"{what} to {folder}", otherwise="make room, or choose another folder"):
            yield temporary
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def lock_file(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold a lock file during the block; the operating system releases it if the process dies.

    Yields whether the lock is held: False if another process holds it and `wait` is False. A file system without locks, or a
    read-only folder (which a later write will report), counts as held.
    """
    lock = FileLock(path, timeout=-1 if wait else 0)
    held = True
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        held = False
    except (OSError, NotImplementedError):
        pass
    try:
        yield held
    finally:
        lock.release()


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Lock a file for writing: other processes that enter such a block for it wait."""
    with lock_file(path.with_name(f".{path.name}.lock"), wait=True):
        yield


@contextlib.contextmanager
def folder_lock(folder: str | Path, *, what: str) -> Iterator[None]:
    """Lock a folder during the block, so that two processes never mix their files in it.

    Args:
        folder: Folder to lock; created if missing.
        what: The operation, for error messages: "fine-tune".

    Raises:
        LensFVError: another process holds the folder.
    """
    with lock_file(Path(folder) / ".lock", wait=False) as held:
        if not held:
            raise LensFVError(f"{what} in {folder}: another process works there; wait for it, or choose another folder")
        yield


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextlib.contextmanager
def explain_disk_errors(context: str, *, otherwise: str) -> Iterator[None]:
    """Turn errors that a full or read-only disk causes in the block into a one-line error.

    Args:
        context: The operation, for the message: "fine-tune in mine".
        otherwise: What the user can do about it.

    Raises:
        LensFVError: the disk is full or cannot be written.
    """
    try:
        yield
    except Exception as e:
        if isinstance(e, LensFVError) or (reason := disk_error(e)) is None:
            raise
        raise LensFVError(f"{context}: {reason}; {otherwise}") from e


def disk_error(error: BaseException) -> str | None:
    """The operating system's message if a disk caused the error, else None; libraries wrap such errors in their own."""
    message = " ".join(str(error).split())
    if isinstance(error, OSError):
        return error.strerror or message
    if type(error).__name__ == "SafetensorError" and (match := re.search(r"([A-Z][\w ]+) \(os error \d+\)", message)):
        return match[1]
    if isinstance(error, RuntimeError) and re.search("PytorchStreamWriter|inline_container|iostream error", message):
        return "a file could not be written whole"
    return None
