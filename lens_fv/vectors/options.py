"""Options of what is fitted to a task's pairs. Each name, type, default and help text is stated here once.

As in `lens_fv.heads.options`, a `...Config` holds words and numbers only, and `...Options` add what only Python code can give.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lens_fv.core.choices import Count, NonNegative, Positive, Seed, Whole, checked
from lens_fv.model.lens_model import LensModel
from lens_fv.tasks import TODD, PromptTemplate, Split
from lens_fv.vectors.function_vector import FunctionVector

Start = FunctionVector | Literal["zero", "random"]
DEPTHS = (0.3, 0.5)
LEARNING_RATES = (0.05, 0.1)


@checked
@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How something is fitted to a task's pairs.

    Attributes:
        n_pairs: Number of training pairs per task.
        steps: Number of Adam steps.
        seed: Seed of the split and of all random draws.
    """

    n_pairs: Count = 20
    steps: Count = 40
    seed: Seed = 0


@checked
@dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """What is fitted on, and whether progress is shown.

    Attributes:
        template: Prompt template.
        progress: Show a progress bar.
    """

    template: PromptTemplate = TODD
    progress: bool = False


@checked
@dataclass(frozen=True, kw_only=True)
class SplitOptions(PromptOptions):
    """What is fitted on, for a single task.

    Attributes:
        split: Split of the task's pairs; default: `split_pairs(task, seed=seed)`.
    """

    split: Split | None = None


@checked
@dataclass(frozen=True, kw_only=True)
class TuneConfig(FitConfig):
    """Options of `tune` and `tune_many` that are words and numbers.

    Attributes:
        layers: One layer, or several to choose from; default: those at 0.3 and 0.5 of the depth, and those of all starts.
        learning_rate: One rate or several, in units of the residual stream's typical norm at the layer over sqrt(d_model).
        l2: Weight of the squared distance to zero or to the start, in units of the residual stream's typical norm.
        l2_to: Reference of that distance: "zero" or "start".
        init_norm: Norm of a random start, in units of the residual stream's typical norm.

    Example:
        >>> lens_fv.vectors.TuneConfig(steps=100).n_pairs
        20
    """

    layers: Whole | Sequence[Whole] | None = None
    learning_rate: Positive | Sequence[Positive] = LEARNING_RATES
    l2: NonNegative = 0.0
    l2_to: Literal["zero", "start"] = "zero"
    init_norm: NonNegative = 0.25


@checked
@dataclass(frozen=True, kw_only=True)
class TuneOptions(TuneConfig, SplitOptions):
    """All options of `tune`.

    Attributes:
        init: Initial value: a vector, "zero" or "random".
    """

    init: Start = "zero"


@checked
@dataclass(frozen=True, kw_only=True)
class TuneManyOptions(TuneConfig, PromptOptions):
    """All options of `tune_many`.

    Attributes:
        init: One initial value for all tasks, or a mapping by task name; see `tune`.
        splits: Splits by task name; default: as in `tune`.
    """

    init: Start | Mapping[str, Start] = "zero"
    splits: Mapping[str, Split] | None = None


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
