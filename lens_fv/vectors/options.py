"""Options of what is fitted to a task's pairs. Each name, type, default and help text is stated here once (`takes_options`)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

from lens_fv.core.choices import Count, NonNegative, Positive, Seed, Whole, checked
from lens_fv.errors import LensFVError
from lens_fv.model.lens_model import LensModel
from lens_fv.tasks import TODD, PromptTemplate, Split
from lens_fv.vectors.function_vector import FunctionVector

Start = FunctionVector | Literal["zero", "random"]
DEPTHS = (0.3, 0.5)
LEARNING_RATES = (0.05, 0.1)
SCALES = (0.5, 1.0, 2.0, 4.0)
T = TypeVar("T", int, float)


@checked
@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How something is fitted to a task's pairs.

    Attributes:
        n_pairs: Number of training pairs per task.
        steps: Number of Adam steps.
        seed: Seed of the split and of all random draws.
        split: Split of the task's pairs, or splits by task name; default: `split_pairs(task, seed=seed)`.
        template: Prompt template.
        progress: Show a progress bar.
    """

    n_pairs: Count = 20
    steps: Count = 40
    seed: Seed = 0
    split: Split | Mapping[str, Split] | None = None
    template: PromptTemplate = TODD
    progress: bool = False


@checked
@dataclass(frozen=True, kw_only=True)
class TuneConfig(FitConfig):
    """Options of `tune` and `tune_many`.

    Attributes:
        layers: One layer, or several to choose from; default: those at 0.3 and 0.5 of the depth, and those of all starts.
        learning_rate: One rate or several, in units of the residual stream's typical norm at the layer over sqrt(d_model).
        init: Initial value: a vector, "zero" or "random"; or initial values by task name.
        init_norm: Norm of a random start, in units of the residual stream's typical norm.
        l2: Weight of the squared distance to zero or to the start, in units of the residual stream's typical norm.
        l2_to: Reference of that distance: "zero" or "start".

    Example:
        >>> lens_fv.vectors.TuneConfig(steps=100).n_pairs
        20
    """

    layers: Whole | Sequence[Whole] | None = None
    learning_rate: Positive | Sequence[Positive] = LEARNING_RATES
    init: Start | Mapping[str, Start] = "zero"
    init_norm: NonNegative = 0.25
    l2: NonNegative = 0.0
    l2_to: Literal["zero", "start"] = "zero"


class Candidate(NamedTuple):
    """One combination of layer and learning rate; see `TuneConfig`."""

    layer: int
    learning_rate: float


def candidates_of(
    model: LensModel, layers: int | Sequence[int] | None, learning_rate: float | Sequence[float], starts: Iterable[Start] = ()
) -> list[Candidate]:
    """Every combination of layer and learning rate; default: the layers at 0.3 and 0.5 of the depth, and those of the starts.

    Raises:
        LensFVError: no such layer in the model, or no layer or rate to choose from.
    """
    default = [start.layer for start in starts if isinstance(start, FunctionVector)]
    default += [model.layer_at(depth) for depth in DEPTHS]
    rates = as_list(learning_rate)
    if not rates:
        raise LensFVError(f"choose a learning rate on {model.name}: none given; give at least one")
    return [Candidate(layer, rate) for layer in sorted(layers_of(model, layers, default)) for rate in rates]


def layers_of(model: LensModel, layers: int | Sequence[int] | None, default: Iterable[int]) -> list[int]:
    """One layer or several as a list without repetitions, counted from the first layer.

    Raises:
        LensFVError: no such layer in the model, or none given.
    """
    indices = [model.check_layer(layer) for layer in (default if layers is None else as_list(layers))]
    if not indices:
        raise LensFVError(f"choose a layer of {model.name}: none given; leave layers out to use the default")
    return as_list(indices)


def as_list(values: T | Sequence[T]) -> list[T]:
    """One value or several as a list without repetitions."""
    return [values] if isinstance(values, float | int) else list(dict.fromkeys(values))
