"""A weighted sum of all heads' mean outputs, with learned weights in place of a ranking."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Parameter

from lens_fv.core.artefact import Provenance, require_shape
from lens_fv.core.choices import Count, Natural, Positive, Seed, Whole, checked
from lens_fv.errors import LensFVError
from lens_fv.heads import HeadMeans, HeadRanking, head_means, resid_norms
from lens_fv.model.lens_model import LensModel
from lens_fv.patching.readout import answer_logprobs
from lens_fv.tasks import TODD, PromptTemplate, Split, Task, build_prompts, encode_prompts, split_pairs, zero_shot
from lens_fv.vectors import FunctionVector
from lens_fv.vectors.baselines.fitting import fit
from lens_fv.vectors.batches import open_batches
from lens_fv.vectors.extract import validation_prompts
from lens_fv.vectors.tune import DEPTHS, LEARNING_RATES


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
        flat = self.weights.flatten()
        order: list[int] = flat.abs().argsort(descending=True)[:k].tolist()
        heads = self.weights.shape[1]
        return [(i // heads, i % heads, float(flat[i])) for i in order]

    def heatmap_data(self) -> Tensor:
        """See `Artefact.heatmap_data`."""
        return self.weights

    def summary(self) -> dict[str, str]:
        """See `Artefact.summary`."""
        return super().summary() | {"heads": ", ".join(f"{a}.{b} x {w:.2f}" for a, b, w in self.top()) + ", ..."}


@checked
def train_head_weights(
    model: LensModel,
    task: Task,
    *,
    means: HeadMeans | HeadRanking | None = None,
    pairs: Count = 20,
    layer: Whole | Sequence[Whole] | None = None,
    learning_rate: Positive | Sequence[Positive] = LEARNING_RATES,
    steps: Count = 40,
    n_shots: Natural = 10,
    n_prompts: Count = 100,
    split: Split | None = None,
    template: PromptTemplate = TODD,
    seed: Seed = 0,
    progress: bool = False,
) -> HeadWeights:
    """Learn one weight per head for the sum of all heads' mean outputs, added after a layer (after Saglam et al. 2025).

    Minimises the mean negative log-probability of the answers' tokens after zero-shot prompts, as `tune` does, but with only
    one parameter per head. All weights start at zero. All combinations of layer and learning rate are trained together, and
    the combination and step with the likeliest *validation* answers are kept.

    Args:
        model: Model, which stays frozen.
        task: Task to learn.
        means: Mean head outputs, or a ranking that holds them; default: computed over clean few-shot prompts from training
            pairs.
        pairs: Number of training pairs.
        layer: One layer, or several to choose from; default: those at 0.3 and 0.5 of the depth.
        learning_rate: One rate or several. A rate is approximately the norm of the vector after the first step, in units of
            the residual stream's typical norm at the layer.
        steps: Number of Adam steps.
        n_shots: Number of demonstrations per prompt if means are computed.
        n_prompts: Number of few-shot prompts if means are computed.
        split: Split of the task's pairs; default: `split_pairs(task, seed=seed)`.
        template: Prompt template.
        seed: Seed of the split and of the prompts.
        progress: Show a progress bar.

    Raises:
        LensFVError: the model has no heads, the task has too few pairs, a layer does not exist, the means are of another model,
            or a loss is not finite.
    """
    if not model.attention_layers:
        raise LensFVError(f"learn head weights on {model.name}: it {model.no_heads()}")
    split = split or split_pairs(task, seed=seed)
    if not 1 <= pairs <= len(split.train):
        raise LensFVError(f"learn head weights of {task.name} on {pairs} pairs: its training split has {len(split.train)}")
    if isinstance(means, HeadRanking):
        means.provenance.check(model)
    elif means is None:
        shots = build_prompts(split.train, split.train, n_shots=n_shots, n_prompts=n_prompts, template=template, seed=seed)
        means = head_means(model, [p.tokens for p in encode_prompts(model, shots)], progress=progress)
    device, writes = model.device, head_writes(model, means.z, means.post_attn_gain)
    training = encode_prompts(model, [zero_shot(pair, template=template) for pair in split.train[:pairs]])
    held_out = validation_prompts(model, split, template)
    units = resid_norms(model, [p.tokens for p in training])
    depths = layer if layer is not None else [round(depth * (model.n_layers - 1)) for depth in DEPTHS]
    layers = sorted({model.check_layer(at) for at in ([depths] if isinstance(depths, int) else depths)})
    rates = [learning_rate] if isinstance(learning_rate, float | int) else list(learning_rate)
    candidates = [(at, rate) for at in layers for rate in rates]
    at = [layer for layer, _ in candidates]
    # Adam's first step moves all weights by the same amount, up or down; this scales its vector to the learning rate.
    flat = writes.flatten(0, 1)
    unit = torch.tensor([rate * float(units[where]) for where, rate in candidates], device=device)[:, None] / flat.norm()
    moved = Parameter(torch.zeros(len(candidates), len(flat), device=device))
    batches, checks = (open_batches(model, [(0, prompt) for prompt in part]) for part in (training, held_out))

    def loss() -> Tensor:
        vectors = ((moved * unit) @ flat)[None]
        return torch.stack([batch.losses(at, vectors).sum() for batch in batches]).sum() / len(training)

    def score() -> Tensor:
        vectors = ((moved * unit) @ flat)[None]
        return torch.cat([batch.read(at, vectors, answer_logprobs).sum(-1) for batch in checks]).mean(0)

    best = fit([moved], loss, score, steps=steps, what=f"{task.name}: head weights", progress=progress)
    where, rate = candidates[best.candidate]
    weights = (best.values[0] * unit)[best.candidate]
    provenance = Provenance.of(
        model,
        task=task.name,
        task_hash=task.fingerprint,
        prompts=[p.tokens for p in (*training, *held_out)],
        seed=seed,
        method="head_weights",
        options={
            "pairs": pairs,
            "steps": steps,
            "learning_rate": rate,
            "candidates": tuple(candidates),
            **best.options,
        },
    )
    return HeadWeights(
        provenance=provenance,
        vector=(weights @ flat).float().cpu(),
        head_outputs=torch.zeros(0, model.d_head),
        layer=where,
        resid_norm=float(units[where]),
        weights=weights.reshape(model.n_layers, model.n_heads).float().cpu(),
    )


def head_writes(
    model: LensModel, z: Float[Tensor, "layers heads d_head"], post_attn_gain: Float[Tensor, "layers d_model"]
) -> Float[Tensor, "layers heads d_model"]:
    """Each head's own contribution to the residual stream; 0 in layers without attention heads."""
    written = torch.zeros(model.n_layers, model.n_heads, model.d_model, device=model.device)
    for layer in model.attention_layers:
        alone = torch.zeros(model.n_heads, model.n_heads, model.d_head, device=model.device)
        alone[range(model.n_heads), range(model.n_heads)] = z[layer].to(model.device)
        written[layer] = model.head_write(layer, alone).float() * post_attn_gain[layer].to(model.device)
    return written
