"""Fine-tuning of vectors; the model stays frozen."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import Unpack

from lens_fv.core.choices import Seed, checked
from lens_fv.errors import LensFVError
from lens_fv.heads import resid_norms
from lens_fv.model.lens_model import LensModel
from lens_fv.tasks import TODD, PromptTemplate, Split, Task
from lens_fv.vectors.examples import FittingExamples
from lens_fv.vectors.function_vector import FunctionVector
from lens_fv.vectors.settings import Start, TuneConfig, TuneOptions, learning_rates, tuned_layers
from lens_fv.vectors.training import Candidate, TuningRun, train_vectors


@checked
def tune(
    model: LensModel,
    task: Task,
    *,
    start: Start = "zero",
    split: Split | None = None,
    template: PromptTemplate = TODD,
    seed: Seed = 0,
    progress: bool = False,
    **options: Unpack[TuneOptions],
) -> FunctionVector:
    """Fine-tune a function vector on a few pairs; the model stays frozen (Kang, Wu and Lu 2026).

    Minimises the mean negative log-probability of the answers' tokens after zero-shot prompts, with the vector added to the
    residual stream after a layer at the last prompt token, by full-batch Adam with a cosine schedule. All combinations of
    layer and learning rate are trained together; only the better half continues after a quarter and after half of the steps.
    The combination and step with the likeliest *validation* answers are kept.

    Args:
        model: Model, which stays frozen.
        task: Task to learn.
        start: Initial value: a vector, "zero" or "random".
        split: Split of the task's pairs; default: `split_pairs(task, seed=seed)`.
        template: Prompt template.
        seed: Seed of the split and of a random start.
        progress: Show a progress bar.
        **options: `pairs`, `steps`, `layer`, `learning_rate`, `l2`, `l2_to` and `start_norm`; see `TuneConfig`.

    Raises:
        LensFVError: the task has too few pairs, `start` is of another model, a layer does not exist, or a loss is not finite.

    Example:
        >>> lens_fv.tune(model, task, pairs=4, steps=2, layer=1).layer
        1
    """
    splits = {} if split is None else {task.name: split}
    (vector,) = tune_many(model, [task], start=start, splits=splits, template=template, seed=seed, progress=progress, **options)
    return vector


@checked
def tune_many(
    model: LensModel,
    tasks: Sequence[Task],
    *,
    start: Start | Mapping[str, Start] = "zero",
    splits: Mapping[str, Split] | None = None,
    template: PromptTemplate = TODD,
    seed: Seed = 0,
    progress: bool = False,
    **options: Unpack[TuneOptions],
) -> list[FunctionVector]:
    """Fine-tune the vectors of many relations in the same passes; each equals the result of `tune` with the same layers.

    Args:
        model: Model, which stays frozen.
        tasks: Tasks to learn.
        start: One initial value for all tasks, or a mapping by task name; see `tune`.
        splits: Splits by task name; default: as in `tune`.
        template: Prompt template.
        seed: Seed of the splits and of random starts.
        progress: Show a progress bar.
        **options: As for `tune`.

    Raises:
        LensFVError: no task is given, two have the same name, or `tune` raises.

    Example:
        >>> [vector.provenance.task for vector in lens_fv.tune_many(model, [task], pairs=4, steps=2, layer=1)]
        ['toy']
    """
    config = TuneConfig(**options)
    names = [task.name for task in tasks]
    if not names or len(set(names)) < len(names):
        raise LensFVError(f"tune {len(names)} vectors: give at least one task, and each a name of its own: {', '.join(names)}")
    starts: dict[str, Start] = {name: start[name] if isinstance(start, Mapping) else start for name in names}
    for vector in starts.values():
        if isinstance(vector, FunctionVector):
            vector.provenance.check(model)
    rates = learning_rates(config.learning_rate)
    candidates = [Candidate(at, rate) for at in tuned_layers(model, config.layer, starts.values()) for rate in rates]
    runs: list[TuningRun] = []
    for task in tasks:
        split = (splits or {}).get(task.name)
        examples = FittingExamples.of(model, task, split, what="a vector", pairs=config.pairs, template=template, seed=seed)
        units = resid_norms(model, [prompt.tokens for prompt in examples.train])
        begin = starts[task.name]
        first = [_initial(model, begin, config.start_norm * float(units[at]), seed) for at, _ in candidates]
        origin = begin.provenance.method if isinstance(begin, FunctionVector) else begin
        runs.append(TuningRun(examples, units, origin, torch.stack(first)))
    return train_vectors(model, runs, candidates, config, progress=progress)


def _initial(model: LensModel, start: Start, norm: float, seed: int) -> Float[Tensor, " d_model"]:
    if isinstance(start, FunctionVector):
        return start.vector.to(model.device) * start.scale
    draw = torch.randn(model.d_model, generator=torch.Generator().manual_seed(seed)).to(model.device)
    return draw * (norm / draw.norm() if start == "random" else 0.0)
