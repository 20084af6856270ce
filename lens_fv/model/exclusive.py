"""One gate for all that use a model: one thread at a time, and whatever is changed for a while is put back.

Forwards, hooks, settings, weights and modes are exchanged through `exclusive` and nowhere else. How each is put back is noted
before it is changed, and putting back twice does no harm. So an interrupt may land on any line: every block puts things back
twice, and what an inner block was kept from putting back, the block around it does.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from lens_fv.model.gate import Gate, Turn

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
    gate, turn = gate_of(model), Turn(changes)
    error: type[BaseException] | None = None
    try:
        try:
            gate.enter(turn, f"use {name_of(model)}")
            yield gate
        except BaseException as raised:
            error = type(raised)
            raise
        finally:
            gate.leave(turn, error)
    finally:
        gate.leave(turn, BaseException)  # again: the first may have been interrupted


def while_on(on: list[bool], change: Callable[..., Any], x: Any, hook: Any) -> Any:
    """The hook `change`, which leaves everything alone once `on` is empty."""
    return change(x, hook=hook) if on else None


def roots(model: Any) -> list[nn.Module]:
    """The modules that hold all others; the last is transformers' own model where there is one."""
    tl = getattr(model, "tl", model)
    original = getattr(tl, "original_model", None)
    return [tl] if original is None else [tl, original]


def modules_of(model: Any) -> list[nn.Module]:
    """All modules, each once; quicker than torch's own walk, which makes names."""
    found: dict[int, nn.Module] = {}
    todo = roots(model)
    while todo:
        module = todo.pop()
        if id(module) not in found:
            found[id(module)] = module
            todo += [part for part in module._modules.values() if part is not None]
    return list(found.values())


def name_of(model: Any) -> str:
    """What errors call it."""
    name = getattr(model, "name", None)
    return name if isinstance(name, str) else type(roots(model)[-1]).__name__
