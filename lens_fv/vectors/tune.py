"""Fine-tuning of vectors; the model stays frozen."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.core.artefact import Provenance
from lens_fv.core.choices import Count, NonNegative, Positive, Seed, Whole, checked
from lens_fv.errors import LensFVError
from lens_fv.heads import resid_norms
from lens_fv.model.lens_model import LensModel
from lens_fv.tasks import TODD, PromptTemplate, Split, Task, encode_prompts, split_pairs, zero_shot
from lens_fv.vectors.extract import validation_prompts
from lens_fv.vectors.function_vector import FunctionVector
from lens_fv.vectors.training import Candidate, TuningRun, train

Start = FunctionVector | Literal["zero", "random"]
DEPTHS = (0.3, 0.5)
LEARNING_RATES = (0.05, 0.1)


@checked
def tune(
    model: LensModel,
    task: Task,
    *,
    init: Start = "zero",
    n_pairs: Count = 20,
    layers: Whole | Sequence[Whole] | None = None,
    learning_rate: Positive | Sequence[Positive] = LEARNING_RATES,
    steps: Count = 40,
    l2: NonNegative = 0.0,
    l2_to: Literal["zero", "start"] = "zero",
    init_norm: NonNegative = 0.25,
    split: Split | None = None,
    template: PromptTemplate = TODD,
    seed: Seed = 0,
    progress: bool = False,
) -> FunctionVector:
    """Fine-tune a function vector on a few pairs; the model stays frozen (Kang, Wu and Lu 2026).

    Minimises the mean negative log-probability of the answers' tokens after zero-shot prompts, with the vector added to the
    residual stream after a layer at the last prompt token, by full-batch Adam with a cosine schedule. All combinations of
    layer and learning rate are trained together; only the better half continues after a quarter and after half of the steps.
    The combination and step with the likeliest *validation* answers are kept.

    Args:
        model: Model, which stays frozen.
        task: Task to learn.
        init: Initial value: a vector, "zero" or "random".
        n_pairs: Number of training pairs.
        layers: One layer, or several to choose from; default: those at 0.3 and 0.5 of the depth, and that of `init`.
        learning_rate: One rate or several, in units of the residual stream's typical norm at the layer over sqrt(d_model).
        steps: Number of Adam steps.
        l2: Weight of the squared distance to zero or to the start, in units of the residual stream's typical norm.
        l2_to: Reference of that distance: "zero" or "start".
        init_norm: Norm of a random start, in units of the residual stream's typical norm.
        split: Split of the task's pairs; default: `split_pairs(task, seed=seed, n_train=n_pairs)`.
        template: Prompt template.
        seed: Seed of the split and of a random start.
        progress: Show a progress bar.

    Raises:
        LensFVError: the task has too few pairs, `init` is of another model, a layer does not exist, or a loss is not finite.

    Example:
        >>> lens_fv.tune(model, task, n_pairs=4, steps=2, layers=1).layer
        1
    """
    given = {} if split is None else {task.name: split}
    options = {"n_pairs": n_pairs, "layers": layers, "learning_rate": learning_rate, "steps": steps, "l2": l2, "l2_to": l2_to}
    (vector,) = tune_many(
        model,
        [task],
        init=init,
        init_norm=init_norm,
        splits=given,
        template=template,
        seed=seed,
        progress=progress,
        **options,
    )
    return vector


@checked
def tune_many(
    model: LensModel,
    tasks: Sequence[Task],
    *,
    init: Start | Mapping[str, Start] = "zero",
    n_pairs: Count = 20,
    layers: Whole | Sequence[Whole] | None = None,
    learning_rate: Positive | Sequence[Positive] = LEARNING_RATES,
    steps: Count = 40,
    l2: NonNegative = 0.0,
    l2_to: Literal["zero", "start"] = "zero",
    init_norm: NonNegative = 0.25,
    splits: Mapping[str, Split] | None = None,
    template: PromptTemplate = TODD,
    seed: Seed = 0,
    progress: bool = False,
) -> list[FunctionVector]:
    """Fine-tune the vectors of many relations in the same passes; each equals the result of `tune` with the same layers.

    Args:
        model: Model, which stays frozen.
        tasks: Tasks to learn.
        init: One initial value for all tasks, or a mapping by task name; see `tune`.
        n_pairs: Number of training pairs per task.
        layers: One layer, or several to choose from; default: those at 0.3 and 0.5 of the depth, and those of all starts.
        learning_rate: See `tune`.
        steps: See `tune`.
        l2: See `tune`.
        l2_to: See `tune`.
        init_norm: See `tune`.
        splits: Splits by task name; default: as in `tune`.
        template: Prompt template.
        seed: Seed of the splits and of random starts.
        progress: Show a progress bar.

    Raises:
        LensFVError: no task is given, two have the same name, or `tune` raises.

    Example:
        >>> [vector.provenance.task for vector in lens_fv.tune_many(model, [task], n_pairs=4, steps=2, layers=1)]
        ['toy']
    """
    names = [task.name for task in tasks]
    if not names or len(set(names)) < len(names):
        raise LensFVError(f"tune {len(names)} vectors: give at least one task, and each a name of its own: {', '.join(names)}")
    begin: dict[str, Start] = {name: init[name] if isinstance(init, Mapping) else init for name in names}
    for vector in begin.values():
        if isinstance(vector, FunctionVector):
            vector.provenance.check(model)
    rates = (learning_rate,) if isinstance(learning_rate, float | int) else tuple(learning_rate)
    candidates = [Candidate(at, rate) for at in _layers(model, layers, begin.values()) for rate in rates]
    courses = [
        _course(model, task, (splits or {}).get(task.name), begin[task.name], candidates, n_pairs, init_norm, template, seed)
        for task in tasks
    ]
    train(model, courses, candidates, steps=steps, l2=l2, l2_to_start=l2_to == "start", progress=progress)
    settings = {"n_pairs": n_pairs, "steps": steps, "l2": l2, "l2_to": l2_to}
    return [
        _vector(model, task, c, candidates, begin[task.name], settings, seed) for task, c in zip(tasks, courses, strict=True)
    ]


def _course(
    model: LensModel,
    task: Task,
    split: Split | None,
    start: Start,
    candidates: Sequence[Candidate],
    n_pairs: int,
    start_norm: float,
    template: PromptTemplate,
    seed: int,
) -> TuningRun:
    split = split or split_pairs(task, seed=seed, n_train=n_pairs)
    if len(split.train) < n_pairs:
        raise LensFVError(f"tune on {n_pairs} pairs of {task.name}: its training split has {len(split.train)}; ask for fewer")
    prompts = encode_prompts(model, [zero_shot(pair, template=template) for pair in split.train[:n_pairs]])
    units = resid_norms(model, [p.tokens for p in prompts])
    starts = torch.stack([_start(model, start, start_norm * float(units[at]), seed) for at, _ in candidates])
    return TuningRun(task.name, prompts, validation_prompts(model, split, template), units, starts)


def _vector(
    model: LensModel,
    task: Task,
    course: TuningRun,
    candidates: Sequence[Candidate],
    start: Start,
    settings: dict[str, Any],
    seed: int,
) -> FunctionVector:
    if course.vector is None:
        raise LensFVError(f"tune {task.name} on {model.name}: no candidate gives its answers a finite log-probability")
    at, rate = candidates[course.candidate]
    options = settings | {
        "start": start.provenance.method if isinstance(start, FunctionVector) else start,
        "learning_rate": rate,
        "best_step": course.step,
        "validation_logprob": course.logprob,
        "candidates": [list(c) for c in candidates],
    }
    provenance = Provenance.of(
        model,
        task=task.name,
        task_hash=task.fingerprint,
        prompts=[p.tokens for p in (*course.train, *course.held_out)],
        seed=seed,
        method="tuned",
        options=options,
    )
    return FunctionVector(
        provenance=provenance,
        vector=course.vector,
        head_outputs=torch.zeros(0, model.d_head),
        layer=at,
        resid_norm=float(course.units[at]),
    )


def _layers(model: LensModel, layer: int | Sequence[int] | None, starts: Iterable[Start]) -> list[int]:
    if layer is None:
        own = [start.layer for start in starts if isinstance(start, FunctionVector)]
        layer = [*own, *(round(depth * (model.n_layers - 1)) for depth in DEPTHS)]
    layers = [layer] if isinstance(layer, int) else layer
    return sorted({model.check_layer(at) for at in layers})


def _start(model: LensModel, start: Start, norm: float, seed: int) -> Float[Tensor, " d_model"]:
    if isinstance(start, FunctionVector):
        return start.vector.to(model.device) * start.scale
    draw = torch.randn(model.d_model, generator=torch.Generator().manual_seed(seed)).to(model.device)
    return draw * (norm / draw.norm() if start == "random" else 0.0)
