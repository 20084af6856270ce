"""From the strongest heads to one vector."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from lens_fv.core.artefact import Provenance
from lens_fv.core.choices import Count, Whole, checked
from lens_fv.heads import HeadRanking
from lens_fv.heads.competence import Queries, choose_queries
from lens_fv.model.lens_model import LensModel
from lens_fv.tasks import TODD, EncodedPrompt, Pair, PromptTemplate, Split, Task, encode_prompts, split_pairs, zero_shot
from lens_fv.vectors.function_vector import FunctionVector, Site
from lens_fv.vectors.sweep import sweep_injection

MOST_VALIDATION = 40
"""Validation pairs that a choice is made on: more cost time and rarely change it."""


@checked
def extract(
    model: LensModel,
    task: Task,
    ranking: HeadRanking,
    *,
    n_heads: Count = 10,
    layer: Whole | None = None,
    site: Site = "resid_post",
    split: Split | None = None,
    queries: Queries | None = None,
    template: PromptTemplate = TODD,
    bias_per_head: bool = False,
) -> FunctionVector:
    """The sum of what the top heads write into the residual stream on average (Todd et al. 2024).

    Args:
        model: the model that was ranked.
        task: the task that was ranked.
        ranking: from `rank_heads`.
        n_heads: how many heads; of a ranking by key/value group, how many groups.
        layer: where it is added; default: the layer at which it makes the validation split's answers likeliest.
        site: see `FunctionVector`.
        split: default: that of the ranking (`split_pairs(task, seed=ranking.provenance.seed)`).
        queries: that the layer is picked on: "all" of the validation split, or those "answered" after the ranking's
            demonstrations; see `choose_queries`. Default: those of the ranking. Nothing is asked where the layer is given.
        template: of the zero-shot prompts that the layer is picked on.
        bias_per_head: add the output projection's bias once a head, as the paper's code does; for parity only.

    Raises:
        LensFVError: more heads than there are, a ranking of another model, or no query that is answered.
    """
    ranking.provenance.check(model)
    heads = ranking.heads(n_heads)
    outputs = torch.stack([ranking.z[a, b] for a, b in heads])
    vector = torch.zeros(model.d_model)
    for (a, b), z in zip(heads, outputs, strict=True):
        alone = torch.zeros(model.n_heads, model.d_head)
        alone[b] = z
        written = model.head_write(a, alone.to(model.device), include_bias=bias_per_head).float().cpu()
        vector += written * ranking.carry[a]
    split = split or split_pairs(task, seed=ranking.provenance.seed)
    at, picked_on = 0 if layer is None else model.check_layer(layer), "given"
    if layer is None:
        options = ranking.provenance.options
        asked = choose_queries(
            model,
            task,
            split.validation,
            queries or options.get("queries", "all"),
            split=split,
            n_shots=options.get("n_shots", 10),
            template=template,
            instruction=options.get("instruction") or options.get("instructions"),
            seed=ranking.provenance.seed,
        )
        split = replace(split, validation=asked.of(split.validation))
        picked_on = "validation log-probability"
        if asked.noted:
            picked_on += f", {asked.noted['n_queries']} answered of {asked.noted['n_items']}"
    provenance = Provenance.of(
        model,
        task=task.name,
        task_hash=task.fingerprint,
        prompts=[p.tokens for p in validation_prompts(model, split, template)],
        seed=ranking.provenance.seed,
        method="extracted",
        options={
            **ranking.provenance.options,
            "n_heads": n_heads,
            "bias_per_head": bias_per_head,
            "layer_picked_on": picked_on,
        },
    )
    made = FunctionVector(
        provenance=provenance,
        vector=vector,
        head_outputs=outputs,
        layer=at,
        resid_norm=float(ranking.resid_norm[at]),
        site=site,
        heads=heads,
    )
    if layer is None:
        anywhere = made.at(site="resid_post")
        at = sweep_injection(model, task, anywhere, scales=[1.0], split=split, template=template).best().layer
    return replace(made, layer=at, resid_norm=float(ranking.resid_norm[at]))


def validation_prompts(model: LensModel, split: Split, template: PromptTemplate = TODD) -> list[EncodedPrompt]:
    """Zero-shot prompts for (at most 40 of) the validation pairs, with the primary answer alone: what choices are made on."""
    pairs: Sequence[Pair] = split.validation[:MOST_VALIDATION]
    encoded = encode_prompts(model, [zero_shot(pair, template=template) for pair in pairs])
    return [EncodedPrompt(prompt.tokens, prompt.answers[:1]) for prompt in encoded]
