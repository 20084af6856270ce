"""From the strongest heads to one vector."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.artefact import Provenance
from lens_fv.errors import LensFVError
from lens_fv.model.lens_model import LensModel
from lens_fv.patching import AnswerScores, Edit, HeadRanking, score_answers
from lens_fv.tasks import TODD, EncodedPrompt, Pair, PromptTemplate, Split, Task, encode_prompts, split_pairs, zero_shot
from lens_fv.vectors.function_vector import FunctionVector, Site

MOST_VALIDATION = 40
"""Validation pairs that a choice is made on: more cost time and rarely change it."""


def extract(
    model: LensModel,
    task: Task,
    ranking: HeadRanking,
    *,
    n_heads: int = 10,
    layer: int | None = None,
    site: Site = "resid_post",
    split: Split | None = None,
    template: PromptTemplate = TODD,
    bias_per_head: bool = False,
) -> FunctionVector:
    """The sum of what the top heads write into the residual stream on average (Todd et al. 2024).

    Args:
        model: the model that was ranked.
        task: the task that was ranked.
        ranking: from `rank_heads`.
        n_heads: how many heads.
        layer: where it is added; default: the layer at which it makes the validation split's answers likeliest.
        site: see `FunctionVector`.
        split: default: that of the ranking (`split_pairs(task, seed=ranking.provenance.seed)`).
        template: of the zero-shot prompts that the layer is picked on.
        bias_per_head: add the output projection's bias once a head, as the paper's code does; for parity only.

    Raises:
        LensFVError: more heads than there are, or a ranking of another model.
    """
    ranking.provenance.check(model)
    total = model.n_layers * model.n_heads
    if not 1 <= n_heads <= total:
        raise LensFVError(f"extract a vector from {n_heads} heads: {model.name} has {total}")
    top = torch.topk(ranking.mean.flatten(), n_heads).indices.tolist()
    heads = tuple((i // model.n_heads, i % model.n_heads) for i in top)
    outputs = torch.stack([ranking.z[a, b] for a, b in heads])
    vector = torch.zeros(model.d_model)
    for (a, b), z in zip(heads, outputs, strict=True):
        alone = torch.zeros(model.n_heads, model.d_head)
        alone[b] = z
        written = model.head_write(a, alone.to(model.device), include_bias=bias_per_head).float().cpu()
        vector += written * ranking.carry[a]
    prompts = validation_prompts(model, split or split_pairs(task, seed=ranking.provenance.seed), template)
    by_layer = None
    if layer is None:
        by_layer = sweep_layers(model, vector, prompts)
        layer = int(by_layer.logprob.mean(0).argmax())
    layer = model.check_layer(layer)
    provenance = Provenance.of(
        model,
        task=task.name,
        task_hash=task.fingerprint,
        prompts=[p.tokens for p in prompts],
        seed=ranking.provenance.seed,
        method="extracted",
        options={
            **ranking.provenance.options,
            "n_heads": n_heads,
            "bias_per_head": bias_per_head,
            "layer_picked_on": "given" if by_layer is None else "validation log-probability",
        },
    )
    return FunctionVector(
        provenance=provenance,
        vector=vector,
        head_outputs=outputs,
        layer=layer,
        resid_norm=float(ranking.resid_norm[layer]),
        site=site,
        heads=heads,
    )


def sweep_layers(model: LensModel, vector: Float[Tensor, " d_model"], prompts: Sequence[EncodedPrompt]) -> AnswerScores:
    """The answers' scores with the vector added after each layer in turn (the branch axis), all layers in one pass."""
    return score_answers(model, prompts, [[Edit(layer, vector, mode="add")] for layer in range(model.n_layers)])


def validation_prompts(model: LensModel, split: Split, template: PromptTemplate = TODD) -> list[EncodedPrompt]:
    """Zero-shot prompts for (at most 40 of) the validation pairs, with the primary answer alone: what choices are made on."""
    pairs: Sequence[Pair] = split.validation[:MOST_VALIDATION]
    encoded = encode_prompts(model, [zero_shot(pair, template=template) for pair in pairs])
    return [EncodedPrompt(prompt.tokens, prompt.answers[:1]) for prompt in encoded]
