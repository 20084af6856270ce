"""How a model is measured: in eval mode, by one thread, and only if its weights are what they seem."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial, wraps
from typing import Any, TypeVar, cast

import torch
from torch import nn

from lens_fv.errors import LensFVError
from lens_fv.model.exclusive import exclusive, modules_of, name_of, roots
from lens_fv.model.gate import Gate

F = TypeVar("F", bound=Callable[..., Any])
OWN_ADAPTER = "lens_fv"
"""The name of the adapters that lens_fv itself puts into a model."""


@contextmanager
def measuring(model: Any) -> Iterator[Gate]:
    """Inside the block a model runs as it is measured: in eval mode, by nobody else, by weights that are what they seem.

    Modes, and whether torch keeps gradients, are afterwards what they were.

    Args:
        model: a `LensModel`, or what `plain_model` made of one.

    Raises:
        LensFVError: there is an adapter or a parametrization in it, it is half written, or another thread has changed it.
    """
    with exclusive(model) as gate:
        key = id(roots(model)[0])
        if key not in gate.measured:
            gate.put(vars(gate), "measured", gate.measured | {key})
            gate.afterwards(partial(torch.set_grad_enabled, torch.is_grad_enabled()))
            gate.check(f"measure {name_of(model)}")
            modules = modules_of(model)
            check_weights(model, modules)
            eval_mode(gate, modules)
        yield gate


def measured(function: F) -> F:
    """Run a function of a model within `measuring`."""

    @wraps(function)
    def run(model: Any, *args: Any, **options: Any) -> Any:
        with measuring(model):
            return function(model, *args, **options)

    return cast(F, run)


def eval_mode(gate: Gate, modules: Iterable[nn.Module]) -> None:
    """Put modules in eval mode until the block of the gate ends."""
    for module in modules:
        if module.training:
            gate.put(vars(module), "training", False)


def check_weights(model: Any, modules: Iterable[nn.Module] | None = None) -> None:
    """Raise `LensFVError` if a module computes with other weights than it shows: an adapter's, or parametrized ones.

    lens_fv's own adapters pass: they stand around the maps to queries and values, whose weights are not read.

    Args:
        model: to check.
        modules: of it; default: all.
    """
    for module in modules_of(model) if modules is None else modules:
        parts = module._modules
        if "parametrizations" in parts:
            raise LensFVError(
                f"measure {name_of(model)}: {_path(model, module)} is parametrized, which its weights do not show; fix them "
                "first (torch.nn.utils.parametrize.remove_parametrizations)"
            )
        peft = _is_pefts(type(module)) or "lora_A" in parts or "lora_A" in module._parameters
        if peft and OWN_ADAPTER not in getattr(parts.get("lora_A"), "_modules", ()):
            raise LensFVError(
                f"measure {name_of(model)}: {_path(model, module)} has an adapter, which its weights do not show; merge the "
                "adapter first (peft_model.merge_and_unload()) and wrap what that returns"
            )


@lru_cache(maxsize=1000)
def _is_pefts(kind: type) -> bool:
    return any(each.__module__.partition(".")[0] == "peft" for each in kind.__mro__)


def _path(model: Any, module: nn.Module) -> str:
    names = (name for name, each in roots(model)[-1].named_modules() if each is module)
    return ".".join(part for part in next(names, "a module").split(".") if part != "_original_component")
