"""Conditions for measuring a model: its parts, eval mode, a single thread, and no hidden changes of its weights."""

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
PARTS = ("cfg", "tokenizer", "hooks", "blocks", "ln_final", "unembed")
OWN_ADAPTER = "lens_fv"
"""Name of the adapters that lens_fv itself adds to a model."""


@contextmanager
def measuring(model: Any) -> Iterator[Gate]:
    """Prepare a model for measurement inside the block: eval mode, exclusive access and no hidden weight changes.

    Modes and torch's gradient setting are restored afterwards.

    Args:
        model: A `LensModel`, or the result of `plain_model`.

    Raises:
        LensFVError: the model has an adapter or a parametrization, is partly written, or another thread is changing it.
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
    """Decorate a function of a model to run within `measuring`."""

    @wraps(function)
    def run(model: Any, *args: Any, **options: Any) -> Any:
        with measuring(model):
            return function(model, *args, **options)

    return cast(F, run)


def eval_mode(gate: Gate, modules: Iterable[nn.Module]) -> None:
    """Put modules in eval mode until the gate's block ends."""
    for module in modules:
        if module.training:
            gate.put(vars(module), "training", False)


def check_parts(tl: Any) -> None:
    """Check that a model has the parts of a decoder.

    Raises:
        LensFVError: not a TransformerLens model, or a bridge to an architecture without a required part: a final norm (OPT with
            post-norms), or a single residual stream between blocks (DeepSeek V4 has several).
    """
    missing = [part for part in PARTS if not hasattr(tl, part)]
    hf = getattr(tl, "original_model", None)
    if missing and hf is None:
        raise LensFVError(
            f"wrap a TransformerLens model: {type(tl).__name__} has no {', '.join(missing)}; "
            "pass a TransformerBridge or HookedTransformer, or use load_model(name)"
        )
    if hf is not None and not missing:
        missing = [part for part in ("ln_final", "unembed") if getattr(getattr(tl, part), "original_component", tl) is None]
    if hf is not None and not missing:
        names = [f"blocks.{layer}.hook_resid_{end}" for layer in range(int(tl.cfg.n_layers)) for end in ("pre", "post")]
        missing = [name for name in names if name not in tl.hook_dict][:1]
    if missing:
        raise LensFVError(
            f"wrap a bridge to {type(hf).__name__}: TransformerLens gives it no {', '.join(missing)}, so its states cannot be "
            "read; take another architecture, or another configuration of this one"
        )


def check_weights(model: Any, modules: Iterable[nn.Module] | None = None) -> None:
    """Raise `LensFVError` if a module has an adapter or parametrized weights, so that it computes with hidden weights.

    lens_fv's own adapters are allowed, because they wrap the query and value projections, and those weights are not read.

    Args:
        model: Model to check.
        modules: Modules of the model to check; default: all.
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
    return any(base.__module__.partition(".")[0] == "peft" for base in kind.__mro__)


def _path(model: Any, module: nn.Module) -> str:
    names = (name for name, part in roots(model)[-1].named_modules() if part is module)
    return ".".join(part for part in next(names, "a module").split(".") if part != "_original_component")
