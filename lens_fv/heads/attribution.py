"""First-order estimates of every head's indirect effect: attribution patching and direct logit attribution."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.core.artefact import Provenance
from lens_fv.core.choices import checked
from lens_fv.core.progress import progress_bar
from lens_fv.errors import LensFVError
from lens_fv.heads.comparison import HeadComparison
from lens_fv.heads.options import RankingConfig
from lens_fv.heads.protocol import make_ranking_prompts
from lens_fv.heads.ranking import HeadRanking, Metric
from lens_fv.model.lens_model import LensModel
from lens_fv.model.measuring import measured, measuring
from lens_fv.tasks import TODD, EncodedPrompt, PromptTemplate, Split, Task


@checked
def compare_attributions(
    model: LensModel,
    task: Task,
    ranking: HeadRanking,
    *,
    split: Split | None = None,
    template: PromptTemplate = TODD,
    progress: bool = False,
) -> HeadComparison:
    """Compare attribution patching and direct logit attribution with the exact effects of a ranking.

    All three scores describe the same intervention: on the ranking's corrupted prompts, at the last token, a head's output z
    is replaced by its mean over the ranking's clean prompts.

    Attribution patching (Nanda 2023; Kramár et al. 2024) is the first-order effect on the ranking's metric: the gradient at
    the corrupted prompt times (mean z - z). TransformerLens' `attribution_patch` compares pairs of prompts of equal length;
    the gradient function underneath it, `cache_activation_and_gradient`, works with any source, including the mean.

    Direct logit attribution (Elhage et al. 2021; Wang et al. 2023) projects what (mean z - z) writes onto the unembedding of
    the answer's first token minus the mean unembedding, with the final norm's scale fixed at its value on the corrupted
    prompt. TransformerLens' own tool requires processed weights; here the final norm's gain is applied explicitly, which gives
    the same result on any weights. A norm after attention (Gemma 3) enters with its gain on the clean prompts
    (`HeadRanking.post_attn_gain`). A soft cap on logits is ignored.

    Args:
        model: Model that was ranked.
        task: Task that was ranked.
        ranking: Result of `rank_heads`.
        split: As given to `rank_heads`.
        template: As given to `rank_heads`.
        progress: Show a progress bar.

    Raises:
        LensFVError: the model, task or prompts are not the ranking's, or the ranking does not replace one head at a time by its
            mean output, measured by "prob" or "logprob" on prompts without noise.

    Example:
        >>> comparison = lens_fv.heads.compare_attributions(model, task, ranking)
        >>> comparison.mean('attribution').shape  # layers and heads
        torch.Size([3, 4])
    """
    corrupted, provenance = _ranked_prompts(model, task, ranking, split, template)
    mean, post_attn_gain = ranking.z.to(model.device), ranking.post_attn_gain.to(model.device)
    directions = _answer_directions(model, [prompt.answers[0][0] for prompt in corrupted])
    attribution: list[Tensor] = []
    direct: list[Tensor] = []
    with progress_bar("attributions", len(corrupted), show=progress) as step:
        for prompt, direction in zip(corrupted, directions):
            linear = _linearise(model, prompt, ranking.metric)
            change = mean - linear.z
            attribution.append((change * linear.gradient).sum(-1).cpu())
            direct.append(_direct_effects(model, change, post_attn_gain, linear.final_scale, direction).cpu())
            step()
    return HeadComparison(
        provenance=provenance,
        exact=ranking.effects,
        attribution=torch.stack(attribution),
        direct=torch.stack(direct),
        metric=ranking.metric,
    )


def _ranked_prompts(
    model: LensModel, task: Task, ranking: HeadRanking, split: Split | None, template: PromptTemplate
) -> tuple[list[EncodedPrompt], Provenance]:
    """Rebuild a ranking's corrupted prompts, with the provenance of measurements on them."""
    ranked, options = ranking.provenance, ranking.provenance.options
    for name, theirs, ours in (
        ("model", ranked.model, model.name),
        ("revision", ranked.revision, model.revision),
        ("weight processing", ranked.weight_processing, model.weight_processing),
        ("task", ranked.task, task.name),
        ("fingerprint of the task", ranked.task_hash, task.fingerprint),
    ):
        if theirs != ours and None not in (theirs, ours):
            raise LensFVError(f"compare attributions with a ranking: its {name} is {theirs}, here it is {ours}; rank again")
    for name, values in (("metric", ("prob", "logprob")), ("source", ("mean",)), ("mode", ("replace",)), ("unit", ("head",))):
        if options[name] not in values:
            raise LensFVError(
                f"compare attributions with a ranking of {name} {options[name]!r}: they approximate {' or '.join(values)} only"
            )
    if options.get("corruption") == "noise":
        raise LensFVError("compare attributions with a ranking on noisy embeddings: rank with another corruption")
    config = {field.name: options[field.name] for field in fields(RankingConfig) if field.name in options}
    prompts = make_ranking_prompts(model, task, split=split, template=template, seed=ranked.seed, **config)
    method = "attribution patching and direct logit attribution"
    provenance = prompts.provenance(model, task, seed=ranked.seed, method=method, options=options)
    if provenance.prompts_hash != ranked.prompts_hash:
        raise LensFVError(
            f"compare attributions on {task.name}: these are not the prompts that were ranked on; "
            "pass the split and the template that rank_heads was given"
        )
    return prompts.corrupted, provenance


class _Linear(NamedTuple):
    """First-order ingredients of a prompt's metric at the last token."""

    z: Float[Tensor, "layers heads d_head"]
    gradient: Float[Tensor, "layers heads d_head"]
    final_scale: Float[Tensor, "1 1 1"]


def _linearise(model: LensModel, prompt: EncodedPrompt, metric: Metric) -> _Linear:
    from transformer_lens.tools.analysis.attribution_patching import cache_activation_and_gradient

    scale: list[Tensor] = []

    # All parameters are frozen, so gradients need a leaf tensor.
    def leaf(x: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        return x.detach().requires_grad_()

    def keep(x: Tensor, hook: Any) -> None:  # noqa: ARG001
        scale.append(x.detach()[:, -1:].float())

    def value(logits: Tensor) -> Tensor:
        logprob = logits[0, -1].float().log_softmax(-1)[prompt.answers[0][0]]
        return logprob.exp() if metric == "prob" else logprob

    sites = [f"blocks.{layer}.attn.hook_z" for layer in range(model.n_layers)]
    # A backward hook fires only if gradients flow on to an earlier site, hence one before the first head.
    names = ["blocks.0.hook_resid_pre", *sites]
    tokens = torch.tensor([prompt.tokens], device=model.device)
    if not {*names, "hook_embed", "ln_final.hook_scale"} <= model.hook_names:
        raise LensFVError(f"attributions in {model.name}: it lacks hooks at the heads of some layer or at the final norm")
    with measuring(model), torch.enable_grad(), model.hooks([("hook_embed", leaf), ("ln_final.hook_scale", keep)]):
        cache = cache_activation_and_gradient(model.tl, tokens, value, names_filter=names)
    gradients = {site: gradient for site in sites if (gradient := cache.gradients.get(site)) is not None}
    if not scale or len(gradients) < len(sites):
        raise LensFVError(f"attributions in {model.name}: hooks at heads or at the final norm do not fire; run verify")

    def stacked(values: Mapping[str, Tensor]) -> Float[Tensor, "layers heads d_head"]:
        return torch.stack([values[site][0, -1].reshape(model.n_heads, model.d_head).float() for site in sites])

    return _Linear(stacked(cache.activations), stacked(gradients), scale[-1])


@measured
def _answer_directions(model: LensModel, answers: list[int]) -> Float[Tensor, "trials d_model"]:
    """Per token, the direction in the normalised final state that raises its logit above the mean, times the norm's gain."""
    norm, unembedding = model.tl.ln_final, model.tl.W_U
    gain = next((w for name in ("weight", "w") if isinstance(w := getattr(norm, name, None), Tensor)), None)
    directions = (unembedding[:, answers] - unembedding.mean(1, keepdim=True)).T.float()
    if gain is None:  # folded into the unembedding
        return directions
    return directions * (gain.float() + bool(getattr(model.tl.cfg, "rmsnorm_uses_offset", False)))


@measured
def _direct_effects(
    model: LensModel,
    change: Float[Tensor, "layers heads d_head"],
    post_attn_gain: Float[Tensor, "layers d_model"],
    final_scale: Float[Tensor, "1 1 1"],
    direction: Float[Tensor, " d_model"],
) -> Float[Tensor, "layers heads"]:
    from transformer_lens import ActivationCache

    z = {f"blocks.{layer}.attn.hook_z": z[None, None] for layer, z in enumerate(change)}
    cache = ActivationCache({**z, "ln_final.hook_scale": final_scale}, model.tl)
    written = cast(Tensor, cache.stack_head_results()) * post_attn_gain.repeat_interleave(model.n_heads, 0)[:, None, None]
    return (cache.apply_ln_to_stack(written).float() @ direction).reshape(change.shape[:2])
