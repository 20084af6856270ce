"""Fine-tuning of vectors; the model stays frozen."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.core.options import takes_options
from lens_fv.errors import LensFVError
from lens_fv.heads import resid_norms
from lens_fv.model.lens_model import LensModel
from lens_fv.tasks import PromptTemplate, Split, Task
from lens_fv.vectors.examples import FittingExamples
from lens_fv.vectors.function_vector import FunctionVector
from lens_fv.vectors.options import Start, TuneConfig, TuneManyOptions, TuneOptions, learning_rates, tuned_layers
from lens_fv.vectors.training import Candidate, TuningRun, train_vectors


@takes_options(TuneOptions, TuneConfig)
def tune(model: LensModel, task: Task, options: TuneOptions) -> FunctionVector:
    """Fine-tune a function vector on a few pairs; the model stays frozen (Kang, Wu and Lu 2026).

    Minimises the mean negative log-probability of the answers' tokens after zero-shot prompts, with the vector added to the
    residual stream after a layer at the last prompt token, by full-batch Adam with a cosine schedule. All combinations of
    layer and learning rate are trained together; only the better half continues after a quarter and after half of the steps.
    The combination and step with the likeliest *validation* answers are kept.

    Args:
        model: Model, which stays frozen.
        task: Task to learn.
        options: Keywords: the fields of `TuneOptions`, which `TuneConfig` and `FitConfig` describe.

    Raises:
        LensFVError: the task has too few pairs, `init` is of another model, a layer does not exist, or a loss is not finite.

    Example:
        >>> lens_fv.tune(model, task, n_pairs=4, steps=2, layers=1).layer
        1
    """
    splits = {} if options.split is None else {task.name: options.split}
    (vector,) = _tuned(model, [task], {task.name: options.init}, splits, options, options.template, options.progress)
    return vector


@takes_options(TuneManyOptions, TuneConfig)
def tune_many(model: LensModel, tasks: Sequence[Task], options: TuneManyOptions) -> list[FunctionVector]:
    """Fine-tune the vectors of many relations in the same passes; each equals the result of `tune` with the same layers.

    Args:
        model: Model, which stays frozen.
        tasks: Tasks to learn.
        options: Keywords: the fields of `TuneManyOptions`, which `TuneConfig` and `FitConfig` describe.

    Raises:
        LensFVError: no task is given, two have the same name, or `tune` raises.

    Example:
        >>> [vector.provenance.task for vector in lens_fv.tune_many(model, [task], n_pairs=4, steps=2, layers=1)]
        ['toy']
    """
    names, start = [task.name for task in tasks], options.init
    if not names or len(set(names)) < len(names):
        raise LensFVError(f"tune {len(names)} vectors: give at least one task, and each a name of its own: {', '.join(names)}")
    starts: dict[str, Start] = {name: start[name] if isinstance(start, Mapping) else start for name in names}
    return _tuned(model, tasks, starts, options.splits or {}, options, options.template, options.progress)


def _tuned(
    model: LensModel,
    tasks: Sequence[Task],
    starts: Mapping[str, Start],
    splits: Mapping[str, Split],
    config: TuneConfig,
    template: PromptTemplate,
    progress: bool,
) -> list[FunctionVector]:
    for start in starts.values():
        if isinstance(start, FunctionVector):
            start.provenance.check(model)
    rates = learning_rates(config.learning_rate)
    candidates = [Candidate(at, rate) for at in tuned_layers(model, config.layers, starts.values()) for rate in rates]
    runs: list[TuningRun] = []
    for task in tasks:
        examples = FittingExamples.of(model, task, splits.get(task.name), config, template, what="a vector")
        units = resid_norms(model, [prompt.tokens for prompt in examples.train])
        start = starts[task.name]
        initial = [_initial(model, start, config.init_norm * float(units[at]), config.seed) for at, _ in candidates]
        origin = start.provenance.method if isinstance(start, FunctionVector) else start
        runs.append(TuningRun(examples, units, origin, torch.stack(initial)))
    return train_vectors(model, runs, candidates, config, progress=progress)


def _initial(model: LensModel, start: Start, norm: float, seed: int) -> Float[Tensor, " d_model"]:
    if isinstance(start, FunctionVector):
        return start.vector.to(model.device) * start.scale
    draw = torch.randn(model.d_model, generator=torch.Generator().manual_seed(seed)).to(model.device)
    return draw * (norm / draw.norm() if start == "random" else 0.0)
