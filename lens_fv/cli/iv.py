"""The commands `lens-fv iv ...` for instruction vectors: rank, extract."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

import lens_fv as fv
from lens_fv.cli.command import Options, OptionsOf, command
from lens_fv.cli.heads import Correcting, Top, heads_printout
from lens_fv.cli.inputs import TASK, Loading, OutFile, TaskName, notes, open_model, queries_used
from lens_fv.cli.output import Printout
from lens_fv.cli.vectors import load_ranking
from lens_fv.core.files import file_name

if TYPE_CHECKING:
    from lens_fv.tasks import Task

HELP = "Instruction vectors: rank the heads that carry an instruction, and extract its vector."
InstructionFile = Annotated[Path | None, Parameter(help="File of instructions; default: the task's own, if it has any.")]
Template = Annotated[
    Literal["todd", "arrow", "input-output", "natural", "chat"],
    Parameter(help="Prompt template; chat: the model's own chat format."),
]
RANKING = "lens_fv:rank_instruction_heads"


@command
def rank(
    *,
    loading: Loading,
    task: TaskName = TASK,
    instructions: InstructionFile = None,
    options: Annotated[
        Options, OptionsOf(RANKING, leave_out=("instructions", "others", "foil", "source", "unit", "backend", "budget"))
    ],
    template: Template = "todd",
    correcting: Correcting,
    top: Top = 10,
    out: OutFile = None,
) -> Printout:
    """Rank all attention heads by their indirect effect on following an instruction.

    Writes the ranking to --out (default: TASK-instruction-ranking.safetensors).
    """
    the_task, model = instructed_task(task, instructions), open_model(**loading)
    ranking = fv.rank_instruction_heads(model, the_task, **options, template=_template(template, model), progress=True)
    path = ranking.save(out or Path(f"{file_name(the_task.name)}-instruction-ranking.safetensors"))
    counterpart = ranking.provenance.options["counterpart"]
    payload = {
        "model": model.name,
        "task": the_task.name,
        "instructions": list(the_task.instructions),
        "counterpart": counterpart,
        "counterparts": ranking.provenance.options.get("counterparts"),
        "baseline": float(ranking.baseline.mean()),
    }
    title = f"{the_task.name} on {model.name}: instruction against {counterpart}"
    return heads_printout(ranking, correcting, top, path, payload, title=title)


@command
def extract(
    *,
    loading: Loading,
    task: TaskName = TASK,
    ranking: Path | None = None,
    instructions: InstructionFile = None,
    options: Annotated[Options, OptionsOf("lens_fv:extract", leave_out=("bias_per_head",))],
    ranking_options: Annotated[
        Options, OptionsOf(RANKING, only=("counterpart", "n_shots", "n_clean", "n_trials", "queries", "seed"))
    ],
    template: Template = "todd",
    out: OutFile = None,
) -> Printout:
    """Extract an instruction vector from the strongest heads.

    Writes the vector to --out (default: TASK-instruction.safetensors).

    Args:
        ranking: Ranking file written by `iv rank`; default: rank now.
    """
    the_task, model = instructed_task(task, instructions), open_model(**loading)
    written: Any = {"template": _template(template, model)}
    heads = load_ranking(ranking, ranking_options)
    heads = heads or fv.rank_instruction_heads(model, the_task, **ranking_options, **written, progress=True)
    vector = fv.extract_instruction(model, the_task, heads, **options, **written)
    path = vector.save(out or Path(f"{file_name(the_task.name)}-instruction.safetensors"))
    payload = {
        "model": model.name,
        "task": the_task.name,
        "instructions": list(vector.instructions),
        "counterpart": vector.counterpart,
        "layer": vector.layer,
        "queries": queries_used(vector.provenance.options),
        "heads": [list(head) for head in vector.heads],
        "norm_in_residuals": vector.norm,
        "file": str(path),
    }
    return Printout(payload, repr(vector), *notes(vector.provenance.options, path))


def instructed_task(name: str, instructions: Path | None) -> "Task":
    """Load the task, with the instructions from a file if one is given."""
    task = fv.load_task(name)
    return task if instructions is None else replace(task, instructions=fv.tasks.load_instructions(instructions))


def _template(name: str, model: Any) -> Any:
    return fv.tasks.chat_template(model) if name == "chat" else fv.tasks.TEMPLATES[name]


COMMANDS = (rank, extract)
