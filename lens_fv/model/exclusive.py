"""Exclusive access to a model: one thread at a time, and all temporary changes are undone.

Forwards, hooks, settings, weights and modes are changed only through `exclusive`. Each undo step is recorded before its change
and is idempotent. An interrupt may therefore arrive at any line: every block undoes its changes twice, and an outer block
undoes changes that an interrupted inner block left.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from lens_fv.model.gate import Gate, Turn

_GATES: WeakKeyDictionary[nn.Module, Gate] = WeakKeyDictionary()


def gate_of(model: Any) -> Gate:
    """Return the gate of a `LensModel`, of its inner model, or of a transformers model; wrappers of one bridge share it."""
    root = roots(model)[-1]
    gate = _GATES.get(root)
    return _GATES.setdefault(root, Gate()) if gate is None else gate


def share_gate(plain: nn.Module, model: Any) -> None:
    """Share a model's gate with another model that has the same weights."""
    _GATES[plain] = gate_of(model)


@contextmanager
def exclusive(model: Any, changes: str | None = None) -> Iterator[Gate]:
    """Keep other threads from using the model through lens_fv, and undo the gate's changes at the end of the block.

    Blocks of one thread may be nested.

    Args:
        model: A `LensModel` or a model of torch.
        changes: Description of the changed model for error messages, such as "has hooks on it"; other threads then get an
            error. None: other threads wait, because the block is a run that ends by itself.

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
        gate.leave(turn, BaseException)  # again, because the first call may have been interrupted


@contextmanager
def forwards_replaced(model: Any, modules: Sequence[nn.Module], forwards: Sequence[Callable[..., Any]]) -> Iterator[None]:
    """Replace the forwards of a model's modules inside the block."""
    with exclusive(model, "has other forwards for a while") as gate:
        for module, forward in zip(modules, forwards, strict=True):
            gate.replace_forward(module, forward)
        yield


@contextmanager
def hooks_off(tl: Any) -> Iterator[None]:
    """Disable all TransformerLens hooks inside the block."""
    with exclusive(tl, "has its hooks off") as gate:
        for point in set(tl.hook_dict.values()):
            gate.put(vars(point), "_forward_hooks", OrderedDict())
        yield


def roots(model: Any) -> list[nn.Module]:
    """Modules that contain all others; the last one is transformers' own model, if any."""
    tl = getattr(model, "tl", model)
    original = getattr(tl, "original_model", None)
    return [tl] if original is None else [tl, original]


def modules_of(model: Any) -> list[nn.Module]:
    """List all modules once each; faster than torch's own traversal, which builds names."""
    modules: dict[int, nn.Module] = {}
    queue = roots(model)
    while queue:
        module = queue.pop()
        if id(module) not in modules:
            modules[id(module)] = module
            queue += [part for part in module._modules.values() if part is not None]
    return list(modules.values())


def name_of(model: Any) -> str:
    """Name of the model in error messages."""
    name = getattr(model, "name", None)
    return name if isinstance(name, str) else type(roots(model)[-1]).__name__
