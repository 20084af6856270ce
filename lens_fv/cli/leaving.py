"""How a command ends: output, interrupts and the messages about them."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from lens_fv.errors import LensFVError

INTERRUPTED = 128 + signal.SIGINT
UNREAD = 141
"""The shell's exit code for SIGPIPE: the reader of standard output has gone."""
_goes_on: list[Path] = []


class OutputUnread(Exception):
    """Standard output is a pipe that nothing reads any more."""


def goes_on_in(folder: Path) -> None:
    """Make the interrupt message name this folder as the one from which the same command resumes."""
    _goes_on.append(folder)


def tell(line: str) -> None:
    """Write one line to standard error, if it is open."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"lens-fv: {' '.join(line.splitlines())}\n")
        sys.stderr.flush()


def write_out(text: str) -> None:
    """Write to standard output and flush; characters missing from its encoding are written as escapes.

    Raises:
        OutputUnread: the reader has gone.
        LensFVError: the output cannot be written, for example because the disk is full.
    """
    if sys.stdout is None:  # closed by the parent process
        return
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
        raise OutputUnread from None
    except OSError as e:
        _drop_output()
        raise LensFVError(
            f"write to standard output: {e.strerror or e}; the command is done, and what it wrote to files is whole"
        ) from e


class Output:
    """Standard output that remembers whether a write failed: what was lost may no longer be in its buffer."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.lost = False

    def write(self, text: str) -> int:
        """Write to the stream itself."""
        return self._try(self._stream.write, text)

    def flush(self) -> None:
        """Flush the stream itself."""
        self._try(self._stream.flush)

    def _try(self, act: Callable[..., Any], *args: str) -> Any:
        try:
            return act(*args)
        except OSError:
            self.lost = True
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def watched_output() -> Iterator[None]:
    """Inside the block `sys.stdout`, if there is one, is an `Output`."""
    stream = sys.stdout
    if stream is not None:
        sys.stdout = Output(stream)  # pyright: ignore[reportAttributeAccessIssue] - it has all that a stream has
    try:
        yield
    finally:
        sys.stdout = stream


def output_lost() -> bool:
    """Whether something that was to be printed cannot be."""
    try:
        lost = bool(getattr(sys.stdout, "lost", False))
        sys.stdout.flush()
    except OSError:
        lost = True
    except (ValueError, AttributeError):  # closed, or none
        return False
    if lost:
        _drop_output()
    return lost


def _drop_output() -> None:
    """Discard buffered output, because Python would retry it at exit and report the failure."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Interrupts:
    """Raise KeyboardInterrupt for an interrupt inside the block, and remember it even if the exception is lost.

    Python drops an exception raised in a finaliser, in which case it is raised again; some libraries turn it into errors of
    their own.
    """

    def __init__(self) -> None:
        self.seen = False
        self._leaving = False

    def __enter__(self) -> "Interrupts":
        _goes_on.clear()
        self._hook = sys.unraisablehook
        if threading.current_thread() is threading.main_thread():
            self._before: Any = signal.signal(signal.SIGINT, self._interrupt)
            sys.unraisablehook = self._dropped
        return self

    def __exit__(self, *_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            sys.unraisablehook = self._hook
            signal.signal(signal.SIGINT, self._before)

    def leave(self) -> str:
        """Return the message about the interrupt; later interrupts are ignored."""
        self._leaving = True
        if _goes_on and _goes_on[-1].exists():
            return f"interrupted; what was finished is in {_goes_on[-1]}, and the same command goes on from there"
        return "interrupted; every file that was written is whole, and the same command begins anew"

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self.seen = True
        if not self._leaving:
            raise KeyboardInterrupt

    def _dropped(self, what: Any) -> None:
        if not issubclass(what.exc_type, KeyboardInterrupt):
            self._hook(what)
        elif not self._leaving:
            threading.Timer(0.05, signal.raise_signal, [signal.SIGINT]).start()
