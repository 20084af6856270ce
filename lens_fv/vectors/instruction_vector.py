"""The instruction vector: an instruction as a direction in the residual stream."""

from dataclasses import dataclass, fields

from typing_extensions import Unpack

from lens_fv.core.choices import checked
from lens_fv.errors import LensFVError
from lens_fv.heads import HeadRanking
from lens_fv.model.lens_model import LensModel
from lens_fv.tasks import Task
from lens_fv.vectors.extract import ExtractOptions, extract
from lens_fv.vectors.function_vector import FunctionVector


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
    model: LensModel, task: Task, ranking: HeadRanking, **options: Unpack[ExtractOptions]
) -> InstructionVector:
    """Extract an instruction vector: the sum of the top heads' mean outputs on instructed prompts (Jiang et al. 2024).

    Args:
        model: Model that was ranked.
        task: Task that was ranked.
        ranking: Ranking from `rank_instruction_heads`.
        **options: `n_heads`, `layer`, `site`, `split`, `queries` and `template`, as for `extract`. The layer is chosen after
            prompts without an instruction; "answered" queries are those answered with the instructions.

    Raises:
        LensFVError: the ranking is not by instructions, or `extract` raises.

    Example:
        >>> ranking = lens_fv.rank_instruction_heads(model, task, counterpart='none', n_clean=4, n_trials=3)
        >>> lens_fv.extract_instruction(model, task, ranking, n_heads=2, layer=1).layer
        1
    """
    recorded = ranking.provenance.options
    if "instructions" not in recorded:
        raise LensFVError(
            f"instruction vector of {task.name}: the heads were not ranked by instructions; use rank_instruction_heads"
        )
    vector = extract(model, task, ranking, **options)
    values = {field.name: getattr(vector, field.name) for field in fields(vector)}
    return InstructionVector(**values, instructions=tuple(recorded["instructions"]), counterpart=recorded["counterpart"])
