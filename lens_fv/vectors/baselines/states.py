"""Residual states as baselines: a mean state to add, and a task state to patch in."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.core.artefact import Provenance
from lens_fv.core.choices import Count, Finite, Natural, Seed, Whole, checked
from lens_fv.core.options import takes_options
from lens_fv.errors import LensFVError
from lens_fv.heads import resid_states
from lens_fv.model.lens_model import LensModel
from lens_fv.tasks import TODD, PromptTemplate, Split, Task, build_prompts, encode_prompts, split_pairs
from lens_fv.vectors import FunctionVector
from lens_fv.vectors.examples import likeliest
from lens_fv.vectors.function_vector import Site
from lens_fv.vectors.options import SCALES, as_list, layers_of


@checked
@dataclass(frozen=True, kw_only=True)
class TaskStateConfig:
    """Options of `task_state`.

    Attributes:
        layers: One layer, or several to choose from by the log-probability of the *validation* answers; default: all.
        n_shots: Number of demonstrations per prompt.
        n_prompts: Number of few-shot prompts to average over; Hendel et al. use one, Todd et al. 100.
        split: Split of the task's pairs; default: `split_pairs(task, seed=seed)`.
        template: Prompt template.
        seed: Seed of the split and of the prompts.
        progress: Show a progress bar.
    """

    layers: Whole | Sequence[Whole] | None = None
    n_shots: Natural = 10
    n_prompts: Count = 1
    split: Split | None = None
    template: PromptTemplate = TODD
    seed: Seed = 0
    progress: bool = False


@checked
@dataclass(frozen=True, kw_only=True)
class MeanStateConfig(TaskStateConfig):
    """Options of `mean_state`.

    Attributes:
        subtract: What to subtract: "nothing", or the mean state of the same queries' "zero_shot" prompts.
        scales: One scale, or several to choose from.
    """

    subtract: Literal["nothing", "zero_shot"] = "nothing"
    scales: Finite | Sequence[Finite] = SCALES
    n_prompts: Count = 100


@takes_options(MeanStateConfig)
def mean_state(model: LensModel, task: Task, options: MeanStateConfig) -> FunctionVector:
    """The mean last-token state of clean few-shot prompts, added after a layer (the baseline of Todd et al. 2024).

    The layer and scale that make the *validation* answers likeliest are chosen; the scale becomes part of the vector.

    Args:
        model: Model to run.
        task: Task; demonstrations and queries are training pairs.
        options: Keywords: the fields of `MeanStateConfig` and `TaskStateConfig`.

    Raises:
        LensFVError: the task has too few pairs, a layer does not exist, or no scale is given.

    Example:
        >>> lens_fv.vectors.baselines.mean_state(model, task, layers=1, n_shots=2, n_prompts=4).layer
        1
    """
    scales = [float(scale) for scale in as_list(options.scales)]
    if not scales:
        raise LensFVError(f"mean state of {task.name} on {model.name}: no scales to choose from; give at least one")
    method = "mean_state" if options.subtract == "nothing" else "mean_difference"
    subtract = options.subtract == "zero_shot"
    return _likeliest_state(model, task, options, method, "resid_post", scales, subtract_zero_shot=subtract)


@takes_options(TaskStateConfig)
def task_state(model: LensModel, task: Task, options: TaskStateConfig) -> FunctionVector:
    """The state of a few-shot prompt with a dummy query, which replaces a zero-shot prompt's state (Hendel et al. 2023).

    Its site is "state": the residual stream after the layer is replaced, so later layers see the prompt only through its
    earlier tokens.

    Args:
        model: Model to run.
        task: Task; demonstrations and the dummy query are training pairs.
        options: Keywords: the fields of `TaskStateConfig`.

    Raises:
        LensFVError: the task has too few pairs, or a layer does not exist.

    Example:
        >>> lens_fv.vectors.baselines.task_state(model, task, layers=1, n_shots=2, n_prompts=4).layer
        1
    """
    return _likeliest_state(model, task, options, "task_state", "state")


def _likeliest_state(
    model: LensModel,
    task: Task,
    options: TaskStateConfig,
    method: str,
    site: Site,
    scales: Sequence[float] = (1.0,),
    *,
    subtract_zero_shot: bool = False,
) -> FunctionVector:
    """The mean state at the layer, and times the scale, that make the validation answers likeliest."""
    split = options.split or split_pairs(task, seed=options.seed)
    prompts, states = _states(model, split, options, n_shots=options.n_shots)
    means, norms = states.mean(0), states.norm(dim=-1).mean(0)
    if subtract_zero_shot:
        means = means - _states(model, split, options, n_shots=0)[1].mean(0)
    provenance = Provenance.of(
        model,
        task=task.name,
        task_hash=task.fingerprint,
        prompts=prompts,
        seed=options.seed,
        method=method,
        options={"n_shots": options.n_shots, "n_prompts": options.n_prompts},
    )

    def vector(layer: int, scale: float) -> FunctionVector:
        picked = {} if site == "state" else {"picked_scale": scale}
        return FunctionVector(
            provenance=replace(provenance, options={**provenance.options, **picked}),
            vector=means[layer] * scale,
            head_outputs=torch.zeros(0, model.d_head),
            layer=layer,
            resid_norm=float(norms[layer]),
            site=site,
        )

    layers = layers_of(model, options.layers, range(model.n_layers))
    context = f"{task.name}: {'task' if site == 'state' else 'mean'} state"
    candidates = [vector(layer, scale) for layer in layers for scale in scales]
    return likeliest(model, candidates, split, options.template, context=context, progress=options.progress)


def _states(
    model: LensModel, split: Split, options: TaskStateConfig, *, n_shots: int
) -> tuple[list[tuple[int, ...]], Float[Tensor, "prompts layers d_model"]]:
    """Few-shot prompts of training pairs, and the states at their last tokens."""
    pairs, n_prompts, template = split.train, options.n_prompts, options.template
    texts = build_prompts(pairs, pairs, n_shots=n_shots, n_prompts=n_prompts, template=template, seed=options.seed)
    prompts = [prompt.tokens for prompt in encode_prompts(model, texts)]
    return prompts, resid_states(model, prompts).cpu()
