"""Who has a model, what is changed in it for a while, and how that is put back."""

import sys
from collections.abc import Callable, Iterator
from contextlib import _GeneratorContextManager, contextmanager
from functools import partial
from threading import Event, Thread, current_thread
from types import TracebackType
from typing import Any

from torch import nn

from lens_fv.errors import LensFVError

POLL = 0.1
"""Seconds after which a thread looks whether it is its turn, should nobody have told it."""
MISSING = object()
HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)
"""Where torch keeps a module's hooks."""
WAYS = tuple(getattr(_GeneratorContextManager, way).__code__ for way in ("__enter__", "__exit__"))
"""Into and out of a block."""


class Turn:
    """A block's place in the queue.

    Attributes:
        thread: whose block it is.
        changes: see `exclusive`.
        level: how much had been changed when it began.
        next: set when its turn comes.
    """

    def __init__(self, changes: str | None) -> None:
        self.thread: Thread = current_thread()
        self.changes = changes
        self.level = 0
        self.next = Event()


class Gate:
    """What holds a model now, what is changed in it, and how that is put back; one for all wrappers of the same weights."""

    def __init__(self) -> None:
        self.measured: frozenset[int] = frozenset()
        """Which of the models that share it are being measured."""
        self.adapted = False
        """Whether an adapter of lens_fv's own is in it."""
        self.torn: frozenset[str] = frozenset()
        """What was being written when that was interrupted."""
        self._back: list[Callable[[], object]] = []
        self._queue: list[Turn] = []  # whoever has the model, and the threads that wait for it
        self._open: list[Turn] = []  # the blocks of the thread that has it, from the outermost
        self._ended: set[Turn] = set()  # blocks that another one has ended, but not yet their own thread

    def put(self, space: dict[str, Any], name: str, value: Any) -> None:
        """Give something in a module's or an object's dictionary another value until the block ends."""
        self.keep(space, name)
        space[name] = value

    def keep(self, space: dict[str, Any], name: str) -> None:
        """Whatever becomes of something in a dictionary, it is what it is now when the block ends."""
        self.afterwards(partial(_restore, space, name, space.get(name, MISSING)))

    def afterwards(self, back: Callable[[], object]) -> None:
        """Note, before a change is made, what puts it back; it must do no harm twice, or where nothing was changed."""
        self._back.append(back)

    def put_hooks(self, module: nn.Module) -> None:
        """Whatever hooks the module gets from now on are gone when the block ends."""
        for name in HOOKS:
            if name in vars(module):
                self.put(vars(module), name, vars(module)[name].copy())

    @contextmanager
    def writing(self, names: set[str]) -> Iterator[None]:
        """What is written inside the block stays. Should it be interrupted, the model is refused until it is written again."""
        self.torn |= names
        try:
            yield
        except LensFVError:  # which is raised before anything is written
            self.torn -= names
            raise
        self.torn -= names  # not in a `finally`

    def check(self, asked: str) -> None:
        """Raise `LensFVError` if the model is half written, or not what the block around this made it."""
        if self._ended:
            raise LensFVError(
                f"{asked}: the block around this one has ended already, together with one that an interrupt had kept open or "
                "that was ended before it; begin it again"
            )
        if self.torn:
            raise LensFVError(
                f"{asked}: {', '.join(sorted(self.torn)[:3])} ({len(self.torn)} in all) were being written when that was "
                "interrupted; write or switch to them again, or load the model again"
            )

    def enter(self, turn: Turn, asked: str) -> None:
        """Wait for the model, or refuse."""
        _end_interrupted()
        if [first.thread for first in self._queue[:1]] != [turn.thread]:
            self._queue.append(turn)
            while (first := self._queue[0]) is not turn:
                if not first.thread.is_alive() and self._queue[1] is turn:  # it cannot come back
                    self.leave(first, BaseException)
                elif first.thread.is_alive() and first.changes is not None:
                    raise LensFVError(
                        f"{asked}: it {first.changes} in another thread ({first.thread.name}); wait until that block has "
                        "ended, or load the model once more for this thread"
                    )
                else:
                    turn.next.wait(POLL)
        turn.level = len(self._back)
        self._open.append(turn)

    def leave(self, turn: Turn, error: type[BaseException] | None) -> None:
        """Put back what was changed since the turn began, and let the next one in.

        Args:
            turn: of the block.
            error: what the block ends by; None: nothing.

        Raises:
            LensFVError: a block inside it has not ended, and no error can have kept it from that.
        """
        inside: list[Turn] = []
        if turn in self._open:  # else the block around it has ended it already
            self._undo(turn.level)
            inside = self._open[self._open.index(turn) + 1 :]
            del self._open[self._open.index(turn) :]
        self._ended.discard(turn)
        if turn in self._queue:
            self._queue.remove(turn)
        for following in self._queue[:1]:
            following.next.set()
        if inside and error in (None, GeneratorExit):  # else the error is what kept them from ending
            self._ended.update(inside)
        if inside and error is None:
            raise LensFVError("end a block before the one inside it: both have ended now; end the inner one first")

    def _undo(self, level: int) -> None:
        while len(self._back) > level:
            try:
                self._back[-1]()
            except Exception as error:
                self.torn |= {f"what {type(error).__name__} kept from being put back"}
                self._back.pop()
                raise
            self._back.pop()


def _end_interrupted() -> None:
    """An interactive session keeps the frames of its last error: blocks that an interrupt hit on their way out end here."""
    trace: TracebackType | None = getattr(sys, "last_traceback", None)
    while trace is not None:
        if trace.tb_frame.f_code in WAYS:
            block = trace.tb_frame.f_locals["self"].gen
            if not block.gi_running:  # as it is while it ends here
                block.close()
        trace = trace.tb_next


def _restore(space: dict[str, Any], name: str, before: Any) -> None:
    if before is MISSING:
        space.pop(name, None)
    else:
        space[name] = before
