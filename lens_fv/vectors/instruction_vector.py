"""The instruction vector: an instruction as a direction in the residual stream."""

from dataclasses import dataclass, fields

from lens_fv.core.choices import Count, Whole, checked
from lens_fv.errors import LensFVError
from lens_fv.heads import HeadRanking
from lens_fv.heads.competence import Queries
from lens_fv.model.lens_model import LensModel
from lens_fv.tasks import TODD, PromptTemplate, Split, Task
from lens_fv.vectors.extract import extract
from lens_fv.vectors.function_vector import FunctionVector, Site


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
        >>> vector = lens_fv.extract_instruction(model, task, ranking, n_heads=2, layer=1)
        >>> vector.instructions
        ('Say it.',)
    """

    instructions: tuple[str, ...] = ()
    counterpart: str = ""

    def summary(self) -> dict[str, str]:
        """See `Artefact.summary`."""
        return super().summary() | {"instructions": " / ".join(self.instructions), "heads ranked against": self.counterpart}


@checked
def extract_instruction(
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
) -> InstructionVector:
    """Extract an instruction vector: the sum of the top heads' mean outputs on instructed prompts (Jiang et al. 2024).

    Args:
        model: Model that was ranked.
        task: Task that was ranked.
        ranking: Ranking from `rank_instruction_heads`.
        n_heads: See `extract`.
        layer: See `extract`; the layer is chosen after prompts without an instruction.
        site: See `extract`.
        split: See `extract`.
        queries: See `extract`; "answered" queries are those answered with the instructions.
        template: See `extract`.

    Raises:
        LensFVError: the ranking is not by instructions, or `extract` raises.

    Example:
        >>> ranking = lens_fv.rank_instruction_heads(model, task, counterpart='none', n_clean=4, n_trials=3)
        >>> lens_fv.extract_instruction(model, task, ranking, n_heads=2, layer=1).layer
        1
    """
    options = ranking.provenance.options
    if "instructions" not in options:
        raise LensFVError(
            f"instruction vector of {task.name}: the heads were not ranked by instructions; use rank_instruction_heads"
        )
    vector = extract(
        model, task, ranking, n_heads=n_heads, layer=layer, site=site, split=split, queries=queries, template=template
    )
    values = {field.name: getattr(vector, field.name) for field in fields(vector)}
    return InstructionVector(**values, instructions=tuple(options["instructions"]), counterpart=options["counterpart"])
