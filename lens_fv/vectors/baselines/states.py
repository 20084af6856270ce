"""Whole residual states as baselines: a mean state to add, and a task state to patch in."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.core.artefact import Provenance
from lens_fv.core.choices import Count, Finite, Natural, Seed, Whole, checked
from lens_fv.errors import LensFVError
from lens_fv.heads import resid_states
from lens_fv.model.lens_model import LensModel
from lens_fv.tasks import TODD, PromptTemplate, Split, Task, build_prompts, encode_prompts, split_pairs
from lens_fv.vectors import FunctionVector
from lens_fv.vectors.baselines.choice import likeliest

SCALES = (0.5, 1.0, 2.0, 4.0)


@checked
def mean_state(
    model: LensModel,
    task: Task,
    *,
    subtract: Literal["nothing", "zero_shot"] = "nothing",
    layers: Whole | Sequence[Whole] | None = None,
    scales: Finite | Sequence[Finite] = SCALES,
    n_shots: Natural = 10,
    n_prompts: Count = 100,
    split: Split | None = None,
    template: PromptTemplate = TODD,
    seed: Seed = 0,
    progress: bool = False,
) -> FunctionVector:
    """The mean last-token state of clean few-shot prompts, added after a layer (the baseline of Todd et al. 2024).

    The layer and scale that make the *validation* answers likeliest are chosen; the scale becomes part of the vector.

    Args:
        model: Model to run.
        task: Task; demonstrations and queries are training pairs.
        subtract: What to subtract: "nothing", or the mean state of the same queries' "zero_shot" prompts.
        layers: One layer, or several to choose from; default: all.
        scales: One scale, or several to choose from.
        n_shots: Number of demonstrations per prompt.
        n_prompts: Number of few-shot prompts to average over.
        split: Split of the task's pairs; default: `split_pairs(task, seed=seed)`.
        template: Prompt template.
        seed: Seed of the split and of the prompts.
        progress: Show a progress bar.

    Raises:
        LensFVError: the task has too few pairs, a layer does not exist, or no scale is given.
    """
    split = split or split_pairs(task, seed=seed)
    options = {"n_shots": n_shots, "n_prompts": n_prompts}
    prompts, states = _states(model, split, n_shots, n_prompts, template, seed)
    vectors = states.mean(0)
    if subtract == "zero_shot":
        vectors = vectors - _states(model, split, 0, n_prompts, template, seed)[1].mean(0)
    scales = [float(scales)] if isinstance(scales, float | int) else [float(s) for s in scales]
    if not scales:
        raise LensFVError(f"mean state of {task.name} on {model.name}: no scales to choose from; give at least one")
    method = "mean_state" if subtract == "nothing" else "mean_difference"
    candidates = [
        _vector(model, task, prompts, states, vectors[at] * by, at, "resid_post", method, options | {"picked_scale": by}, seed)
        for at in _layers(model, layers)
        for by in scales
    ]
    return likeliest(model, candidates, split, template, what=f"{task.name}: mean state", progress=progress)


@checked
def task_state(
    model: LensModel,
    task: Task,
    *,
    layers: Whole | Sequence[Whole] | None = None,
    n_shots: Natural = 10,
    n_prompts: Count = 1,
    split: Split | None = None,
    template: PromptTemplate = TODD,
    seed: Seed = 0,
    progress: bool = False,
) -> FunctionVector:
    """The state of a few-shot prompt with a dummy query, which replaces a zero-shot prompt's state (Hendel et al. 2023).

    Its site is "state": the residual stream after the layer is replaced, so later layers see the prompt only through its
    earlier tokens.

    Args:
        model: Model to run.
        task: Task; demonstrations and the dummy query are training pairs.
        layers: One layer, or several to choose from by the log-probability of the *validation* answers; default: all.
        n_shots: Number of demonstrations per prompt.
        n_prompts: Number of prompts to average the state over; the paper uses one.
        split: Split of the task's pairs; default: `split_pairs(task, seed=seed)`.
        template: Prompt template.
        seed: Seed of the split and of the prompts.
        progress: Show a progress bar.

    Raises:
        LensFVError: the task has too few pairs, or a layer does not exist.
    """
    split = split or split_pairs(task, seed=seed)
    options = {"n_shots": n_shots, "n_prompts": n_prompts}
    prompts, states = _states(model, split, n_shots, n_prompts, template, seed)
    mean = states.mean(0)
    candidates = [
        _vector(model, task, prompts, states, mean[at], at, "state", "task_state", options, seed)
        for at in _layers(model, layers)
    ]
    return likeliest(model, candidates, split, template, what=f"{task.name}: task state", progress=progress)


def _states(
    model: LensModel, split: Split, n_shots: int, n_prompts: int, template: PromptTemplate, seed: int
) -> tuple[list[tuple[int, ...]], Float[Tensor, "prompts layers d_model"]]:
    made = build_prompts(split.train, split.train, n_shots=n_shots, n_prompts=n_prompts, template=template, seed=seed)
    prompts = [p.tokens for p in encode_prompts(model, made)]
    return prompts, resid_states(model, prompts).cpu()


def _layers(model: LensModel, layer: int | Sequence[int] | None) -> list[int]:
    every = range(model.n_layers) if layer is None else [layer] if isinstance(layer, int) else layer
    if not every:
        raise LensFVError(f"choose a layer of {model.name}: none given; leave layer out to try all of them")
    return list(dict.fromkeys(model.check_layer(at) for at in every))


def _vector(
    model: LensModel,
    task: Task,
    prompts: Sequence[Sequence[int]],
    states: Tensor,
    vector: Tensor,
    layer: int,
    site: Literal["resid_post", "state"],
    method: str,
    options: dict[str, Any],
    seed: int,
) -> FunctionVector:
    provenance = Provenance.of(
        model, task=task.name, task_hash=task.fingerprint, prompts=prompts, seed=seed, method=method, options=options
    )
    return FunctionVector(
        provenance=provenance,
        vector=vector,
        head_outputs=torch.zeros(0, model.d_head),
        layer=layer,
        resid_norm=float(states[:, layer].norm(dim=-1).mean()),
        site=site,
    )
