"""How a command ends: standard output, interrupts and the messages about them."""

import contextlib
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from lens_fv.errors import LensFVError

INTERRUPTED = 128 + signal.SIGINT
UNREAD = 141
"""The shell's exit code for SIGPIPE: the reader of standard output has gone."""
_resumable: list[Path] = []


class OutputUnread(Exception):
    """Standard output is a pipe that nothing reads any more."""


def resumes_in(folder: Path) -> None:
    """Make the interrupt message name this folder as the one from which the same command resumes."""
    _resumable.append(folder)


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
    except OSError as e:
        with contextlib.suppress(OSError, ValueError):  # Python would retry at exit, and report the failure
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(e, BrokenPipeError):
            raise OutputUnread from None
        raise LensFVError(
            f"write to standard output: {e.strerror or e}; the command is done, and what it wrote to files is complete"
        ) from e


class Interrupts:
    """Raise KeyboardInterrupt for an interrupt inside the block, and remember it even if the exception is lost.

    Python drops an exception raised in a finaliser, in which case it is raised again; some libraries turn it into errors of
    their own.
    """

    def __init__(self) -> None:
        self.seen = False
        self._leaving = False

    def __enter__(self) -> "Interrupts":
        _resumable.clear()
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
        if _resumable and _resumable[-1].exists():
            return f"interrupted; what was finished is in {_resumable[-1]}, and the same command resumes from there"
        return "interrupted; every file that was written is complete, and the same command starts over"

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self.seen = True
        if not self._leaving:
            raise KeyboardInterrupt

    def _dropped(self, unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            self._hook(unraisable)
        elif not self._leaving:
            threading.Timer(0.05, signal.raise_signal, [signal.SIGINT]).start()
