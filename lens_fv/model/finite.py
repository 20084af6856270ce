"""Numbers that are none: refused where they are read, and only then traced to where they arise.

The check looks at what was read anyway, so that a good run pays next to nothing. A prompt whose numbers are not finite
runs once more, with a hook at every place.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lens_fv.errors import LensFVError
from lens_fv.model.fingerprint import WRAPPED
from lens_fv.model.measuring import measuring

SHOWN = 40
"""Characters of a prompt that a message shows, from its end."""


def all_finite(values: Tensor) -> bool:
    """Whether no value is infinite or not a number. Of logits, ask of their maximum: a NaN comes through it."""
    return bool(values.detach().isfinite().all())


def measurable(states: Float[Tensor, "*rows width"]) -> Bool[Tensor, "*rows"]:
    """Which states a norm can measure: all numbers are finite, and so is the sum of their squares in single precision.

    A norm that overflows divides by infinity: what is unembedded is then zero, whatever the state was.
    """
    states = states.detach()
    return (states if states.dtype == torch.float64 else states.float()).square().sum(-1).isfinite()


def not_finite(model: Any, what: str, tokens: Sequence[int], *, prompt: int, run: Callable[[], Tensor]) -> LensFVError:
    """The error for numbers that were read and are not finite: it says where they first arise.

    Args:
        model: a `LensModel`.
        what: was read.
        tokens: of the prompt they were read of.
        prompt: its index.
        run: runs that prompt once more and returns its logits.
    """
    # A hook point has the name that it stands under, and often a usual one after it. Scores are infinite where a mask is.
    points = {id(point): (name, point) for name, point in model.tl.hook_dict.items() if not {"scores", "mask"} & _words(name)}
    place = first_not_finite(points.values(), run)
    text = str(model.tokenizer.decode(list(tokens)))
    text = text if len(text) <= SHOWN else f"...{text[-SHOWN:]}"
    if place is None:
        found = f"but only in the way it ran, not in a pass of its own (method='loop'); {_advice(model.tl, model.dtype)}"
    else:
        layer = f" (layer {place.split('.')[1]})" if place.startswith("blocks.") else ""
        found = f"first at {place}{layer}; {_advice(model.tl, model.dtype)}"
    return LensFVError(f"{what} of {model.name}: not finite for prompt {prompt} ({text!r}), {found}")


def loss_not_finite(what: str, loss: float, step: int) -> LensFVError:
    """The error for a loss that is not finite: before the first update it is the model's own, after it the update's."""
    if step:
        return LensFVError(f"{what}: the loss is {loss} at step {step}, after finite ones; lower the learning rate")
    return LensFVError(f"{what}: the loss is {loss} before anything is learned, so the model's numbers are; run verify on it")


def plain_logits(hf: Any, what: str, batch: Mapping[str, Tensor], **options: Any) -> Float[Tensor, "rows pos vocab"]:
    """Logits of a transformers model without TransformerLens.

    Args:
        hf: the model.
        what: they are read for; for the error.
        batch: token ids and their mask.
        **options: see the model's forward.

    Raises:
        LensFVError: they are not finite; it names the row and the first module that puts such numbers out.
    """
    with measuring(hf):
        logits: Tensor = hf(**batch, **options).logits
    if all(rows := logits.detach().amax(-1).isfinite().all(-1).tolist()):
        return logits
    row = rows.index(False)
    one = {name: values[row : row + 1] for name, values in batch.items()}
    place = first_not_finite(hf.named_modules(), lambda: hf(**one, **options).logits)
    dtype = next(weight.dtype for weight in hf.parameters() if weight.is_floating_point())
    raise LensFVError(f"{what}: logits not finite for text {row} of a batch, first at {place}; {_advice(hf, dtype)}")


@torch.no_grad()
def first_not_finite(places: Iterable[tuple[str, nn.Module]], run: Callable[[], Tensor]) -> str | None:
    """The first place whose output is not finite, or too large for a norm; "the logits" where no place has any.

    Args:
        places: modules and their names, in any order.
        run: the pass; returns its logits.
    """
    found: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def hook(module: Any, args: Any, output: Any) -> None:  # noqa: ARG001
            state = output[0] if isinstance(output, tuple) and output else output
            if not found and isinstance(state, Tensor) and state.is_floating_point() and not bool(measurable(state).all()):
                found.append(name)

        return hook

    with ExitStack() as stack:
        for name, module in places:
            stack.callback(module.register_forward_hook(watch(name)).remove)
        logits = run()
    if not found and not all_finite(logits.amax(-1)):
        return "the logits"
    return found[0] if found else None


def _words(name: str) -> set[str]:
    return set(name.replace(".", "_").split("_"))


def _advice(module: nn.Module, dtype: torch.dtype) -> str:
    """What to do about it: known from the weights, and from their type."""
    bad = next((name for name, weight in module.named_parameters() if not all_finite(weight)), None)
    if bad is not None:
        name = ".".join(part for part in bad.split(".") if part != WRAPPED)
        return f"its weight {name} is not finite: load the model again"
    if dtype == torch.float16:
        return "float16 holds no number above 65504: load the model in bfloat16 or float32"
    return f"numbers get too large for {str(dtype).removeprefix('torch.')}: lower the scale (or learning rate) of what is added"
