"""Fine-tuning of vectors; the model stays frozen."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.core.options import takes_options
from lens_fv.errors import LensFVError
from lens_fv.heads import resid_norms
from lens_fv.model.lens_model import LensModel
from lens_fv.tasks import Split, Task
from lens_fv.vectors.examples import FittingExamples
from lens_fv.vectors.function_vector import FunctionVector
from lens_fv.vectors.options import Start, TuneConfig, candidates_of
from lens_fv.vectors.training import TuningRun, train_vectors


@takes_options(TuneConfig)
def tune(model: LensModel, task: Task, options: TuneConfig) -> FunctionVector:
    """Fine-tune a function vector on a few pairs; the model stays frozen (Kang, Wu and Lu 2026).

    Minimises the mean negative log-probability of the answers' tokens after zero-shot prompts, with the vector added to the
    residual stream after a layer at the last prompt token, by full-batch Adam with a cosine schedule. All combinations of
    layer and learning rate are trained together; only the better half continues after a quarter and after half of the steps.
    The combination and step with the likeliest *validation* answers are kept.

    Args:
        model: Model, which stays frozen.
        task: Task to learn.
        options: Keywords: the fields of `TuneConfig` and `FitConfig`.

    Raises:
        LensFVError: the task has too few pairs, `init` is of another model, a layer does not exist, or a loss is not finite.

    Example:
        >>> lens_fv.tune(model, task, n_pairs=4, steps=2, layers=1).layer
        1
    """
    return tune_many(model, [task], options)[0]


@takes_options(TuneConfig)
def tune_many(model: LensModel, tasks: Sequence[Task], options: TuneConfig) -> list[FunctionVector]:
    """Fine-tune the vectors of many relations in the same passes; each equals the result of `tune` with the same layers.

    Args:
        model: Model, which stays frozen.
        tasks: Tasks to learn.
        options: Keywords: the fields of `TuneConfig` and `FitConfig`.

    Raises:
        LensFVError: no task is given, two have the same name, several have the same split, one has no initial value, or `tune`
            raises.

    Example:
        >>> [vector.provenance.task for vector in lens_fv.tune_many(model, [task], n_pairs=4, steps=2, layers=1)]
        ['toy']
    """
    names, init = [task.name for task in tasks], options.init
    if not names or len(set(names)) < len(names):
        raise LensFVError(f"tune {len(names)} vectors: give at least one task, and each a name of its own: {', '.join(names)}")
    if isinstance(options.split, Split) and len(names) > 1:
        raise LensFVError(f"tune {len(names)} vectors on one split: give a mapping of splits by task name")
    if isinstance(init, Mapping) and (missing := [name for name in names if name not in init]):
        raise LensFVError(f"tune {', '.join(missing)}: the initial values are those of {', '.join(init)}; give one for each")
    starts: list[Start] = [init[name] if isinstance(init, Mapping) else init for name in names]
    for start in starts:
        if isinstance(start, FunctionVector):
            start.provenance.check(model)
    candidates = candidates_of(model, options.layers, options.learning_rate, starts)
    runs: list[TuningRun] = []
    for task, start in zip(tasks, starts, strict=True):
        examples = FittingExamples.of(model, task, options, what="vector")
        norms = resid_norms(model, [prompt.tokens for prompt in examples.train])
        initial = [_initial(model, start, options.init_norm * float(norms[layer]), options.seed) for layer, _ in candidates]
        start_name = start.provenance.method if isinstance(start, FunctionVector) else start
        runs.append(TuningRun(examples, norms, start_name, torch.stack(initial)))
    return train_vectors(model, runs, candidates, options)


def _initial(model: LensModel, start: Start, norm: float, seed: int) -> Float[Tensor, " d_model"]:
    if isinstance(start, FunctionVector):
        return start.vector.to(model.device) * start.scale
    draw = torch.randn(model.d_model, generator=torch.Generator().manual_seed(seed)).to(model.device)
    return draw * (norm / draw.norm() if start == "random" else 0.0)
