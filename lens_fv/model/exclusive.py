"""One gate for all that use a model: one thread at a time, and whatever is changed for a while is put back.

Forwards, hooks, settings, weights and modes are exchanged through `exclusive` and nowhere else. How each is put back is noted
before it is changed, and putting back twice does no harm. So an interrupt may land on any line: every block puts things back
twice, and what an inner block was kept from putting back, the block around it does.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import Event, Thread, current_thread
from typing import Any
from weakref import WeakKeyDictionary

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


class _Turn:
    """A block's place in the queue.

    Attributes:
        thread: whose block it is.
        changes: see `exclusive`.
        level: how much had been changed when it began; None while it waits, and once it has ended.
        next: set when its turn comes.
    """

    def __init__(self, changes: str | None) -> None:
        self.thread: Thread = current_thread()
        self.changes = changes
        self.level: int | None = None
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
        self._queue: list[_Turn] = []

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
        """Raise `LensFVError` if the model is half written."""
        if self.torn:
            raise LensFVError(
                f"{asked}: {', '.join(sorted(self.torn)[:3])} ({len(self.torn)} in all) were being written when that was "
                "interrupted; write or switch to them again, or load the model again"
            )

    def enter(self, turn: _Turn, asked: str) -> None:
        """Wait for the model, or refuse."""
        if [first.thread for first in self._queue[:1]] != [turn.thread]:
            self._queue.append(turn)
            while (first := self._queue[0]) is not turn:
                if not first.thread.is_alive() and self._queue[1] is turn:  # it cannot come back
                    self.leave(first)
                elif first.thread.is_alive() and first.changes is not None:
                    raise LensFVError(
                        f"{asked}: it {first.changes} in another thread ({first.thread.name}); wait until that block has "
                        "ended, or load the model once more for this thread"
                    )
                else:
                    turn.next.wait(POLL)
            self._undo(0)  # nothing, but for what a thread left that ended within its block
        turn.level = len(self._back)

    def leave(self, turn: _Turn) -> None:
        """Put back what was changed since the turn began, and let the next one in."""
        if turn.level is not None:
            self._undo(turn.level)
            turn.level = None
        if turn in self._queue:
            self._queue.remove(turn)
        for following in self._queue[:1]:
            following.next.set()

    def _undo(self, level: int) -> None:
        while len(self._back) > level:
            try:
                self._back[-1]()
            except Exception as error:
                self.torn |= {f"what {type(error).__name__} kept from being put back"}
                self._back.pop()
                raise
            self._back.pop()


_GATES: WeakKeyDictionary[nn.Module, Gate] = WeakKeyDictionary()


def gate_of(model: Any) -> Gate:
    """The gate of a `LensModel`, of the model in it, or of a transformers model; wrappers of one bridge share it."""
    root = roots(model)[-1]
    found = _GATES.get(root)
    return _GATES.setdefault(root, Gate()) if found is None else found


def share_gate(plain: nn.Module, model: Any) -> None:
    """Let a model that has another's weights have its gate, too."""
    _GATES[plain] = gate_of(model)


@contextmanager
def exclusive(model: Any, changes: str | None = None) -> Iterator[Gate]:
    """Inside the block no other thread uses the model through lens_fv; what is changed by the gate is put back at its end.

    Blocks of one thread may stand inside one another.

    Args:
        model: a `LensModel` or a model of torch.
        changes: what the model is like inside the block, such as "has hooks on it"; other threads are then refused. None: they
            wait, because the block is a run, which ends by itself.

    Raises:
        LensFVError: another thread is in a block that changes the model.
    """
    gate, turn = gate_of(model), _Turn(changes)
    try:
        try:
            gate.enter(turn, f"use {name_of(model)}")
            yield gate
        finally:
            gate.leave(turn)
    finally:
        gate.leave(turn)  # again: the first may have been interrupted


def while_on(on: list[bool], change: Callable[..., Any], x: Any, hook: Any) -> Any:
    """The hook `change`, which leaves everything alone once `on` is empty."""
    return change(x, hook=hook) if on else None


def _restore(space: dict[str, Any], name: str, before: Any) -> None:
    if before is MISSING:
        space.pop(name, None)
    else:
        space[name] = before


def roots(model: Any) -> list[nn.Module]:
    """The modules that hold all others; the last is transformers' own model where there is one."""
    tl = getattr(model, "tl", model)
    original = getattr(tl, "original_model", None)
    return [tl] if original is None else [tl, original]


def name_of(model: Any) -> str:
    """What errors call it."""
    name = getattr(model, "name", None)
    return name if isinstance(name, str) else type(roots(model)[-1]).__name__
