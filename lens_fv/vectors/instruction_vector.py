"""An instruction as a direction."""

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
    """What heads write where an instruction is to be followed (Jiang et al. 2024, "Instruction Vector").

    Not to be taken for the residual states behind an instruction's last token, which others call by the same name
    (arXiv 2602.07930).

    Attributes:
        instructions: that were read.
        counterpart: what stood in their place when the heads were ranked; see `rank_instruction_heads`.
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
    """The sum of what the top heads write on average where the instruction is read (Jiang et al. 2024).

    Args:
        model: the model that was ranked.
        task: the task that was ranked.
        ranking: from `rank_instruction_heads`.
        n_heads: see `extract`, also for all that follows.
        layer: where it is added; default: where it makes validation answers likeliest behind prompts without instruction.
        site: of the injection.
        split: of the task.
        queries: that the layer is picked on; "answered" means asked with the instructions.
        template: of the prompts that the layer is picked on.

    Raises:
        LensFVError: a ranking by something else than instructions, or what `extract` raises.
    """
    options = ranking.provenance.options
    if "instructions" not in options:
        raise LensFVError(
            f"instruction vector of {task.name}: the heads were not ranked by instructions; use rank_instruction_heads"
        )
    how = {"n_heads": n_heads, "layer": layer, "site": site, "split": split, "queries": queries, "template": template}
    made = extract(model, task, ranking, **how)
    values = {field.name: getattr(made, field.name) for field in fields(made)}
    return InstructionVector(**values, instructions=tuple(options["instructions"]), counterpart=options["counterpart"])
