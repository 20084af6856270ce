"""How a command leaves: what it prints, what stops it, and what is said of that."""

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
"""What a shell makes of SIGPIPE: whoever read standard output has gone."""
_goes_on: list[Path] = []


class OutputUnread(Exception):
    """Standard output is a pipe that nobody reads any more."""


def goes_on_in(folder: Path) -> None:
    """Have an interrupt say that what is finished by then lies in this folder, and that the same command goes on there."""
    _goes_on.append(folder)


def tell(line: str) -> None:
    """One line on standard error, if there is one."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"lens-fv: {' '.join(line.splitlines())}\n")
        sys.stderr.flush()


def write_out(text: str) -> None:
    """Write to standard output at once; characters that its encoding does not have are written as escapes.

    Raises:
        OutputUnread: nobody reads it any more.
        LensFVError: it is full.
    """
    if sys.stdout is None:  # closed by whoever started the command
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


def output_lost() -> bool:
    """Whether something that was to be printed cannot be."""
    try:
        sys.stdout.flush()
    except OSError:
        _drop_output()
        return True
    except (ValueError, AttributeError):  # closed, or none
        pass
    return False


def _drop_output() -> None:
    """Send what is still buffered nowhere; Python would try to write it once more at its end, and say so."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Interrupts:
    """Inside the block an interrupt raises KeyboardInterrupt, and stays on record whatever becomes of that.

    It may be raised within a finaliser, where Python drops it, and then is raised again; libraries turn it into errors of
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
        """What to say of an interrupt; from here on another one does nothing."""
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
