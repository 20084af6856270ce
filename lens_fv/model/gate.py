"""The gate of a model: which thread holds it, its temporary changes, and how to undo them."""

import sys
from collections.abc import Callable, Iterator
from contextlib import _GeneratorContextManager, contextmanager
from functools import partial
from threading import Event, Thread, current_thread
from types import TracebackType
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from lens_fv.errors import LensFVError

POLL = 0.1
"""Seconds after which a waiting thread checks for its turn without being notified."""
MISSING = object()
HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)
"""Attributes in which torch keeps a module's hooks."""
BLOCK_ENDS = tuple(getattr(_GeneratorContextManager, way).__code__ for way in ("__enter__", "__exit__"))
"""Code objects of entering and leaving a block."""


class Turn:
    """A block's place in the queue.

    Attributes:
        thread: Thread that owns the block.
        changes: See `exclusive`.
        level: Number of undo steps recorded before the block began.
        next: Event that is set when its turn comes.
    """

    def __init__(self, changes: str | None) -> None:
        self.thread: Thread = current_thread()
        self.changes = changes
        self.level = 0
        self.next = Event()


class Gate:
    """Holder, changes and undo steps of a model, shared by all wrappers of the same weights."""

    def __init__(self) -> None:
        self.measured: frozenset[int] = frozenset()
        """Ids of the models sharing the gate that are being measured."""
        self.adapted = False
        """Whether one of lens_fv's own adapters is in the model."""
        self.torn: frozenset[str] = frozenset()
        """Names of values that were being written when an interrupt arrived."""
        self._undo_steps: list[Callable[[], object]] = []
        self._queue: list[Turn] = []  # the holder of the model, then the waiting threads
        self._open: list[Turn] = []  # open blocks of the holding thread, the outermost first
        self._ended: set[Turn] = set()  # blocks ended by another block, but not yet by their own thread

    def put(self, space: dict[str, Any], name: str, value: Any) -> None:
        """Replace a value in the dictionary of a module or object until the block ends."""
        self.keep(space, name)
        space[name] = value

    def keep(self, space: dict[str, Any], name: str) -> None:
        """Restore an entry of a dictionary to its present value when the block ends."""
        self.afterwards(partial(_restore, space, name, space.get(name, MISSING)))

    def afterwards(self, undo: Callable[[], object]) -> None:
        """Record an undo step before a change; it must be safe to run twice, or without the change having happened."""
        self._undo_steps.append(undo)

    def replace_forward(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        """Replace a module's forward until the block ends."""
        # In the instance's own dictionary: a bridge component forwards plain assignments to the module it wraps.
        self.put(vars(module), "forward", forward)

    def add_hook(
        self, module: nn.Module, hook: Callable[..., Any], *, before: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Add a hook to a module until the block ends; all others that the module gets in the block are removed with it.

        Args:
            module: Module to add it to.
            hook: Hook, called as torch calls forward hooks.
            before: Call it before the forward, with its input, instead of after it.
            with_kwargs: Pass it the forward's keyword arguments too.
        """
        for name in HOOKS:
            if name in vars(module):
                self.put(vars(module), name, vars(module)[name].copy())
        register = module.register_forward_pre_hook if before else module.register_forward_hook
        return register(hook, with_kwargs=with_kwargs)

    @contextmanager
    def writing(self, names: set[str]) -> Iterator[None]:
        """Keep what is written inside the block; after an interrupt, refuse the model until it is written again."""
        self.torn |= names
        try:
            yield
        except LensFVError:  # raised before anything is written
            self.torn -= names
            raise
        self.torn -= names  # not in a `finally`

    def check(self, context: str) -> None:
        """Raise `LensFVError` if the model is partly written, or an enclosing block has already ended."""
        if self._ended:
            raise LensFVError(
                f"{context}: the block around this one has ended already, together with one that an interrupt had kept open or "
                "that was ended before it; begin it again"
            )
        if self.torn:
            raise LensFVError(
                f"{context}: {', '.join(sorted(self.torn)[:3])} ({len(self.torn)} in all) were being written when that was "
                "interrupted; write or switch to them again, or load the model again"
            )

    def enter(self, turn: Turn, context: str) -> None:
        """Wait for the model, or raise an error if another thread is changing it."""
        _end_interrupted()
        if [first.thread for first in self._queue[:1]] != [turn.thread]:
            self._queue.append(turn)
            while (first := self._queue[0]) is not turn:
                if not first.thread.is_alive() and self._queue[1] is turn:  # the thread has died
                    self.leave(first, BaseException)
                elif first.thread.is_alive() and first.changes is not None:
                    raise LensFVError(
                        f"{context}: it {first.changes} in another thread ({first.thread.name}); wait until that block has "
                        "ended, or load the model once more for this thread"
                    )
                else:
                    turn.next.wait(POLL)
        turn.level = len(self._undo_steps)
        self._open.append(turn)

    def leave(self, turn: Turn, error: type[BaseException] | None) -> None:
        """Undo all changes since the turn began, and let the next thread in.

        Args:
            turn: Turn of the block.
            error: Exception type that ends the block; None: no exception.

        Raises:
            LensFVError: an inner block is still open without an error that would explain it.
        """
        inside: list[Turn] = []
        if turn in self._open:  # otherwise an enclosing block has ended it already
            self._undo(turn.level)
            inside = self._open[self._open.index(turn) + 1 :]
            del self._open[self._open.index(turn) :]
        self._ended.discard(turn)
        if turn in self._queue:
            self._queue.remove(turn)
        for following in self._queue[:1]:
            following.next.set()
        if inside and error in (None, GeneratorExit):  # otherwise the error kept them from ending
            self._ended.update(inside)
        if inside and error is None:
            raise LensFVError("end a block before the one inside it: both have ended now; end the inner one first")

    def _undo(self, level: int) -> None:
        while len(self._undo_steps) > level:
            try:
                self._undo_steps[-1]()
            except Exception as error:
                self.torn |= {f"what {type(error).__name__} kept from being put back"}
                self._undo_steps.pop()
                raise
            self._undo_steps.pop()


def _end_interrupted() -> None:
    """End blocks interrupted while leaving, which an interactive session keeps alive in its last traceback."""
    trace: TracebackType | None = getattr(sys, "last_traceback", None)
    while trace is not None:
        if trace.tb_frame.f_code in BLOCK_ENDS:
            block = trace.tb_frame.f_locals["self"].gen
            if not block.gi_running:  # it is running while it is being closed here
                block.close()
        trace = trace.tb_next


def _restore(space: dict[str, Any], name: str, before: Any) -> None:
    if before is MISSING:
        space.pop(name, None)
    else:
        space[name] = before
