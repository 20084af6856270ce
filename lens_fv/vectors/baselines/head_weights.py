"""A weighted sum of all heads' mean outputs, with learned weights in place of a ranking."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Parameter

from lens_fv.core.artefact import require_shape
from lens_fv.core.choices import Count, Natural, Positive, Whole, checked
from lens_fv.core.options import takes_options
from lens_fv.core.tables import DataFrame, data_frame
from lens_fv.errors import LensFVError
from lens_fv.heads import HeadMeans, HeadRanking, head_means, resid_norms
from lens_fv.heads.statistics import strongest
from lens_fv.model.lens_model import LensModel
from lens_fv.tasks import Task, build_prompts, encode_prompts
from lens_fv.vectors import FunctionVector
from lens_fv.vectors.examples import FittingExamples, split_of
from lens_fv.vectors.fitting import fit_answers
from lens_fv.vectors.options import LEARNING_RATES, FitConfig, candidates_of


@checked
@dataclass(frozen=True, repr=False, eq=False)
class HeadWeights(FunctionVector):
    """A weighted sum of all heads' mean outputs, with learned weights (Saglam et al. 2025).

    Attributes:
        weights: One weight per head; `vector` is the weighted sum of the heads' mean outputs after the output projection.
    """

    weights: Float[Tensor, "layers heads"] = field(default_factory=lambda: torch.empty(0, 0))

    def __post_init__(self) -> None:
        """Check shapes in addition to those of a function vector."""
        super().__post_init__()
        require_shape("head weights", self.weights, self.provenance.shape[:2])

    @checked
    def top(self, k: Count = 5) -> list[tuple[int, int, float]]:
        """The `k` heads with the largest absolute weight: (layer, head, weight)."""
        return [(layer, head, float(self.weights[layer, head])) for layer, head in strongest(self.weights.abs(), k)]

    def heatmap_data(self) -> Tensor:
        """See `Artefact.heatmap_data`."""
        return self.weights

    def to_dataframe(self) -> DataFrame:
        """One row per head with its weight."""
        heads = np.ndindex(*self.weights.shape)
        return data_frame({"layer": i, "head": j, "weight": float(self.weights[i, j])} for i, j in heads)

    def summary(self) -> dict[str, str]:
        """See `Artefact.summary`."""
        return super().summary() | {"heads": ", ".join(f"{a}.{b} x {w:.2f}" for a, b, w in self.top()) + ", ..."}


@checked
@dataclass(frozen=True, kw_only=True)
class HeadWeightsConfig(FitConfig):
    """Options of `train_head_weights`.

    Attributes:
        layers: One layer, or several to choose from; default: those at 0.3 and 0.5 of the depth.
        learning_rate: One rate or several. A rate is approximately the norm of the vector after the first step, in units of
            the residual stream's typical norm at the layer.
        means: Mean head outputs, or a ranking that holds them; default: computed over clean few-shot prompts from training
            pairs.
        n_shots: Number of demonstrations per prompt if means are computed.
        n_prompts: Number of few-shot prompts if means are computed.
    """

    layers: Whole | Sequence[Whole] | None = None
    learning_rate: Positive | Sequence[Positive] = LEARNING_RATES
    means: HeadMeans | HeadRanking | None = None
    n_shots: Natural = 10
    n_prompts: Count = 100


@takes_options(HeadWeightsConfig)
def train_head_weights(model: LensModel, task: Task, options: HeadWeightsConfig) -> HeadWeights:
    """Learn one weight per head for the sum of all heads' mean outputs, added after a layer (after Saglam et al. 2025).

    Minimises the mean negative log-probability of the answers' tokens after zero-shot prompts, as `tune` does, but with only
    one parameter per head. All weights start at zero. All combinations of layer and learning rate are trained together, and
    the combination and step with the likeliest *validation* answers are kept.

    Args:
        model: Model, which stays frozen.
        task: Task to learn.
        options: Keywords: the fields of `HeadWeightsConfig` and `FitConfig`.

    Raises:
        LensFVError: the model has no heads, the task has too few pairs, a layer does not exist, the means are of another model,
            or a loss is not finite.

    Example:
        >>> weighted = lens_fv.vectors.baselines.train_head_weights(model, task, n_pairs=4, steps=2)
        >>> weighted.site
        'resid_post'
    """
    if not model.attention_layers:
        raise LensFVError(f"learn head weights on {model.name}: it {model.no_heads()}")
    examples = FittingExamples.of(model, task, options, what="head weights")
    means = _mean_outputs(model, task, options)
    writes = head_writes(model, means.z, means.post_attn_gain).flatten(0, 1)
    norms = resid_norms(model, [p.tokens for p in examples.train])
    candidates = candidates_of(model, options.layers, options.learning_rate)
    layers = [layer for layer, _ in candidates]
    # Adam's first step moves all weights by the same amount, up or down; this scales its vector to the learning rate.
    sizes = torch.tensor([rate * float(norms[layer]) for layer, rate in candidates], device=model.device)
    unit = sizes[:, None] / writes.norm()
    moved = Parameter(torch.zeros(len(candidates), len(writes), device=model.device))
    best = fit_answers(
        model,
        examples,
        [moved],
        lambda batch: batch.read(layers, ((moved * unit) @ writes)[None]).sum(-1),
        lambda candidate: (moved * unit)[candidate],
    )
    weights, (layer, rate) = best.require(examples.context), candidates[best.candidate]
    recorded = {"learning_rate": rate, "candidates": tuple(candidates)}
    return HeadWeights(
        provenance=examples.provenance(model, "head_weights", recorded | best.options),
        vector=(weights @ writes).float().cpu(),
        head_outputs=torch.zeros(0, model.d_head),
        layer=layer,
        resid_norm=float(norms[layer]),
        weights=weights.reshape(model.n_layers, model.n_heads).float().cpu(),
    )


def _mean_outputs(model: LensModel, task: Task, options: HeadWeightsConfig) -> HeadMeans | HeadRanking:
    """The means of the options; by default those of few-shot prompts from training pairs."""
    if isinstance(options.means, HeadRanking):
        options.means.provenance.check(model)
    if options.means is not None:
        return options.means
    pairs = split_of(task, options).train
    prompts = build_prompts(
        pairs,
        pairs,
        n_shots=options.n_shots,
        n_prompts=options.n_prompts,
        template=options.template,
        seed=options.seed,
    )
    return head_means(model, [p.tokens for p in encode_prompts(model, prompts)], progress=options.progress)


def head_writes(
    model: LensModel, z: Float[Tensor, "layers heads d_head"], post_attn_gain: Float[Tensor, "layers d_model"]
) -> Float[Tensor, "layers heads d_model"]:
    """Each head's own contribution to the residual stream; 0 in layers without attention heads."""
    writes = torch.zeros(model.n_layers, model.n_heads, model.d_model, device=model.device)
    for layer in model.attention_layers:
        alone = torch.zeros(model.n_heads, model.n_heads, model.d_head, device=model.device)
        alone[range(model.n_heads), range(model.n_heads)] = z[layer].to(model.device)
        writes[layer] = model.head_write(layer, alone).float() * post_attn_gain[layer].to(model.device)
    return writes
