"""Settings of what is fitted to a task's pairs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

from lens_fv.core.choices import Count, NonNegative, Positive, Whole, checked
from lens_fv.model.lens_model import LensModel
from lens_fv.vectors.function_vector import FunctionVector

Start = FunctionVector | Literal["zero", "random"]
DEPTHS = (0.3, 0.5)
LEARNING_RATES = (0.05, 0.1)


@checked
@dataclass(frozen=True)
class FitConfig:
    """Settings shared by everything that is fitted to a task's pairs.

    Attributes:
        pairs: Number of training pairs per task.
        steps: Number of Adam steps.
    """

    pairs: Count = 20
    steps: Count = 40


class FitOptions(TypedDict, total=False):
    """The settings of `FitConfig` as keyword arguments."""

    pairs: int
    steps: int


@checked
@dataclass(frozen=True)
class TuneConfig(FitConfig):
    """Settings of `tune`, which takes each of them as a keyword argument.

    Attributes:
        layer: One layer, or several to choose from; default: those at 0.3 and 0.5 of the depth, and those of all starts.
        learning_rate: One rate or several, in units of the residual stream's typical norm at the layer over sqrt(d_model).
        l2: Weight of the squared distance to zero or to the start, in units of the residual stream's typical norm.
        l2_to: Reference of that distance: "zero" or "start".
        start_norm: Norm of a random start, in units of the residual stream's typical norm.
    """

    layer: Whole | Sequence[Whole] | None = None
    learning_rate: Positive | Sequence[Positive] = LEARNING_RATES
    l2: NonNegative = 0.0
    l2_to: Literal["zero", "start"] = "zero"
    start_norm: NonNegative = 0.25


class TuneOptions(FitOptions, total=False):
    """The settings of `TuneConfig` as keyword arguments."""

    layer: int | Sequence[int] | None
    learning_rate: float | Sequence[float]
    l2: float
    l2_to: Literal["zero", "start"]
    start_norm: float


def learning_rates(rates: float | Sequence[float]) -> list[float]:
    """Return one rate or several as a list."""
    return [rates] if isinstance(rates, float | int) else list(rates)


def tuned_layers(model: LensModel, layer: int | Sequence[int] | None, starts: Iterable[Start] = ()) -> list[int]:
    """Return the layers to choose from: those given, or those at 0.3 and 0.5 of the depth and those of the starts.

    Raises:
        LensFVError: no such layer in the model.
    """
    if layer is None:
        own = [start.layer for start in starts if isinstance(start, FunctionVector)]
        layer = [*own, *(round(depth * (model.n_layers - 1)) for depth in DEPTHS)]
    layers = [layer] if isinstance(layer, int) else layer
    return sorted({model.check_layer(at) for at in layers})
