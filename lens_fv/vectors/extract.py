"""Extraction of a function or instruction vector from the strongest heads."""

from dataclasses import dataclass, fields, replace

import torch

from lens_fv.core.artefact import Provenance
from lens_fv.core.choices import Count, Whole, checked
from lens_fv.heads import HeadRanking
from lens_fv.heads.competence import CompetenceConfig, Queries, choose_queries
from lens_fv.model.lens_model import LensModel
from lens_fv.tasks import TODD, PromptTemplate, Split, Task, split_pairs
from lens_fv.vectors.examples import validation_prompts
from lens_fv.vectors.function_vector import FunctionVector, Site
from lens_fv.vectors.sweep import sweep_injection


@checked
@dataclass(frozen=True, repr=False, eq=False)
class InstructionVector(FunctionVector):
    """A function vector extracted from prompts with an instruction (Jiang et al. 2024, "Instruction Vector").

    Others use the same name for the residual states after an instruction's last token (arXiv 2602.07930), which is a
    different quantity.

    Attributes:
        instructions: Instructions in the prompts.
        counterpart: Uninformative counterpart used to rank the heads; see `rank_instruction_heads`.

    Example:
        >>> ranking = lens_fv.rank_instruction_heads(model, task, counterpart='none', n_clean=4, n_trials=3)
        >>> vector = lens_fv.extract(model, task, ranking, n_heads=2, layer=1)
        >>> vector.instructions
        ('Say it.',)
    """

    instructions: tuple[str, ...] = ()
    counterpart: str = ""

    def summary(self) -> dict[str, str]:
        """See `Artefact.summary`."""
        return super().summary() | {"instructions": " / ".join(self.instructions), "heads ranked against": self.counterpart}


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
    """Extract a function vector: the sum of the top heads' mean contributions to the residual stream (Todd et al. 2024).

    Heads that were ranked by instructions give an `InstructionVector` (Jiang et al. 2024).

    Args:
        model: Model that was ranked.
        task: Task that was ranked.
        ranking: Ranking from `rank_heads` or `rank_instruction_heads`.
        n_heads: Number of heads, or of groups if the ranking is by key/value group.
        layer: Layer at which the vector is added; default: the layer that makes the validation answers likeliest, after
            prompts without an instruction.
        site: See `FunctionVector`.
        split: Split of the task's pairs; default: that of the ranking (`split_pairs(task, seed=ranking.provenance.seed)`).
        queries: Validation pairs for choosing the layer: "all", or those "answered" correctly after the ranking's
            demonstrations and instructions; see `choose_queries`. Default: as in the ranking. Unused if `layer` is given.
        template: Template of the zero-shot prompts for choosing the layer.
        bias_per_head: Add the output projection's bias once per head, as the paper's code does; only for parity with it.

    Raises:
        LensFVError: `n_heads` exceeds the number of heads, the ranking is of another model or task, or no query is answered.

    Example:
        >>> ranking = lens_fv.rank_heads(model, task, n_shots=2, n_clean=4, n_trials=3)
        >>> vector = lens_fv.extract(model, task, ranking, n_heads=2, layer=1)
        >>> vector.layer, len(vector.heads)
        (1, 2)
    """
    ranking.provenance.check(model)
    ranking.provenance.check_task(task.name, task.fingerprint, what="extract from a ranking")
    heads = ranking.heads(n_heads)
    outputs = torch.stack([ranking.z[index] for index in heads])
    vector = torch.zeros(model.d_model)
    for (head_layer, head), z in zip(heads, outputs, strict=True):
        alone = torch.zeros(model.n_heads, model.d_head)
        alone[head] = z
        written = model.head_write(head_layer, alone.to(model.device), include_bias=bias_per_head).float().cpu()
        vector += written * ranking.post_attn_gain[head_layer]
    split, picked_on = split or split_pairs(task, seed=ranking.provenance.seed), "given"
    if layer is None:
        split, picked_on = _split_for_layer(model, task, ranking, split, queries, template)
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

    summed = FunctionVector(
        provenance=provenance,
        vector=vector,
        head_outputs=outputs,
        layer=0,
        resid_norm=float(ranking.resid_norm[0]),
        heads=heads,
    )
    if layer is None:
        layer = sweep_injection(model, task, summed, scales=1.0, split=split, template=template).best().layer
    layer = model.check_layer(layer)
    placed = replace(summed, layer=layer, resid_norm=float(ranking.resid_norm[layer]), site=site)
    options = ranking.provenance.options
    if "instructions" not in options:
        return placed
    values = {field.name: getattr(placed, field.name) for field in fields(placed)}
    return InstructionVector(**values, instructions=tuple(options["instructions"]), counterpart=options["counterpart"])


def _split_for_layer(
    model: LensModel, task: Task, ranking: HeadRanking, split: Split, queries: Queries | None, template: PromptTemplate
) -> tuple[Split, str]:
    """The split with the queries by which the layer is chosen as validation part, and a record of the choice."""
    options = ranking.provenance.options
    settings = CompetenceConfig(
        split=split,
        n_shots=options.get("n_shots", 10),
        template=template,
        instruction=options.get("instruction") or options.get("instructions"),
        seed=ranking.provenance.seed,
    )
    chosen = choose_queries(model, task, queries or options.get("queries", "all"), settings)
    picked_on = "validation log-probability"
    if chosen.recorded:
        picked_on += f", {chosen.recorded['n_queries']} answered of {chosen.recorded['n_items']}"
    return replace(split, validation=chosen.of(split.validation)), picked_on
