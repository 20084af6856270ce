"""Detection of infinite values and NaN in results, and tracing of their origin.

The check inspects values that are read anyway, so it costs almost nothing. Only a prompt with non-finite values runs again,
with a hook at every place.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lens_fv.errors import LensFVError
from lens_fv.model.exclusive import exclusive
from lens_fv.model.fingerprint import WRAPPED
from lens_fv.model.measuring import measuring

SHOWN = 40
"""Number of final characters of a prompt that a message shows."""


def all_finite(values: Tensor) -> bool:
    """Whether all values are finite. For logits, pass their maximum, which propagates NaN."""
    return bool(values.detach().isfinite().all())


def measurable(states: Float[Tensor, "*rows width"]) -> Bool[Tensor, "*rows"]:
    """Mask of states that a norm can handle: all values, and their sum of squares in single precision, are finite.

    A norm that overflows divides by infinity, so the normalised state is zero whatever the state was.
    """
    states = states.detach()
    return (states if states.dtype == torch.float64 else states.float()).square().sum(-1).isfinite()


def not_finite(model: Any, values: str, tokens: Sequence[int], *, prompt: int, run: Callable[[], Tensor]) -> LensFVError:
    """Make the error for non-finite values, with the place where they first arise.

    Args:
        model: A `LensModel`.
        values: Name of the values that were read.
        tokens: Token ids of their prompt.
        prompt: Index of the prompt.
        run: Function that runs the prompt again and returns its logits.
    """
    # Hook points are listed under their own name and often an alias. Masked attention scores are infinite by design.
    points = {id(point): (name, point) for name, point in model.tl.hook_dict.items() if not {"scores", "mask"} & _words(name)}
    place = first_not_finite(model, points.values(), run)
    text = str(model.tokenizer.decode(list(tokens)))
    text = text if len(text) <= SHOWN else f"...{text[-SHOWN:]}"
    if place is None:
        origin = f"but only in the way it ran, not in a pass of its own (backend='loop'); {_advice(model.tl, model.dtype)}"
    else:
        layer = f" (layer {place.split('.')[1]})" if place.startswith("blocks.") else ""
        origin = f"first at {place}{layer}; {_advice(model.tl, model.dtype)}"
    return LensFVError(f"{values} of {model.name}: not finite for prompt {prompt} ({text!r}), {origin}")


def loss_not_finite(context: str, loss: float, step: int) -> LensFVError:
    """Make the error for a non-finite loss: before the first update the model is at fault, afterwards the update."""
    if step:
        return LensFVError(f"{context}: the loss is {loss} at step {step}, after finite ones; lower the learning rate")
    return LensFVError(
        f"{context}: the loss is {loss} before anything is learned, so the model's numbers are; run verify on it"
    )


def plain_logits(hf: Any, context: str, batch: Mapping[str, Tensor], **options: Any) -> Float[Tensor, "rows pos vocab"]:
    """Compute logits of a transformers model without TransformerLens.

    Args:
        hf: Transformers model.
        context: Purpose of the logits, for the error message.
        batch: Token ids and their mask.
        **options: Options of the model's forward.

    Raises:
        LensFVError: non-finite logits; the message names the row and the first module with non-finite output.
    """
    with measuring(hf):
        logits: Tensor = hf(**batch, **options).logits
    if all(rows := logits.detach().amax(-1).isfinite().all(-1).tolist()):
        return logits
    row = rows.index(False)
    one = {name: values[row : row + 1] for name, values in batch.items()}
    place = first_not_finite(hf, hf.named_modules(), lambda: hf(**one, **options).logits)
    dtype = next(weight.dtype for weight in hf.parameters() if weight.is_floating_point())
    raise LensFVError(f"{context}: logits not finite for text {row} of a batch, first at {place}; {_advice(hf, dtype)}")


@torch.no_grad()
def first_not_finite(model: Any, places: Iterable[tuple[str, nn.Module]], run: Callable[[], Tensor]) -> str | None:
    """Find the first place with output that is not finite, or too large for a norm; "the logits" if there is none.

    Args:
        model: A `LensModel` or a model of torch.
        places: Names and modules, in any order.
        run: Function that runs the pass and returns its logits.
    """
    names: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def hook(module: Any, args: Any, output: Any) -> None:  # noqa: ARG001
            state = output[0] if isinstance(output, tuple) and output else output
            if not names and isinstance(state, Tensor) and state.is_floating_point() and not bool(measurable(state).all()):
                names.append(name)

        return hook

    with exclusive(model, "is being searched for numbers that are not finite") as gate:
        for name, module in places:
            gate.add_hook(module, watch(name))
        logits = run()
    if not names and not all_finite(logits.amax(-1)):
        return "the logits"
    return names[0] if names else None


def _words(name: str) -> set[str]:
    return set(name.replace(".", "_").split("_"))


def _advice(module: nn.Module, dtype: torch.dtype) -> str:
    """Advice on what to do, based on the weights and their type."""
    bad = next((name for name, weight in module.named_parameters() if not all_finite(weight)), None)
    if bad is not None:
        name = ".".join(part for part in bad.split(".") if part != WRAPPED)
        return f"its weight {name} is not finite: load the model again"
    if dtype == torch.float16:
        return "float16 holds no number above 65504: load the model in bfloat16 or float32"
    return f"numbers get too large for {str(dtype).removeprefix('torch.')}: lower the scale (or learning rate) of what is added"
