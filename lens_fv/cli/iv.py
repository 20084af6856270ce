"""Instruction vectors: rank the heads that carry an instruction, and extract its vector."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import lens_fv as fv
from lens_fv.cli.command import Options, OptionsOf, command
from lens_fv.cli.heads import Correcting, Top, heads_printout
from lens_fv.cli.inputs import Loading, OutFile, OwnTask, RankingInput, TaskInput, open_model, own_task
from lens_fv.cli.output import Printout
from lens_fv.cli.vectors import check_ranking_options, extracted_printout
from lens_fv.errors import LensFVError

InstructionFile = Annotated[Path | None, "File of instructions; default: the task's own, if it has any."]
Template = Annotated[
    Literal["todd", "arrow", "input-output", "natural", "chat"], "Prompt template; chat: the model's own chat format."
]
RANKING = "lens_fv:rank_instruction_heads"


@command
def rank(
    *,
    loading: Loading,
    task: TaskInput,
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
    instructed, model = _instructed(task, instructions), open_model(**loading)
    ranking = fv.rank_instruction_heads(model, instructed, **options, template=_template(template, model), progress=True)
    counterpart = ranking.provenance.options["counterpart"]
    values = {
        "instructions": instructed.instructions,
        "counterpart": counterpart,
        "counterparts": ranking.provenance.options.get("counterparts"),
        "baseline": float(ranking.baseline.mean()),
    }
    against = f"instruction against {counterpart}: "
    return heads_printout(ranking, correcting, top, against=against, out=out, ending="instruction-ranking", **values)


@command
def extract(
    *,
    loading: Loading,
    task: OwnTask = None,
    ranking: Annotated[RankingInput | None, "Ranking file written by `lens-fv iv rank`; default: rank now."] = None,
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
    """
    task = own_task(task, ranking)
    check_ranking_options(ranking, ranking_options)
    instructed, model = _instructed(task, instructions), open_model(**loading)
    prompts: Any = {"template": _template(template, model)}
    heads = ranking or fv.rank_instruction_heads(model, instructed, **ranking_options, **prompts, progress=True)
    ranked = heads.provenance.options
    if "instructions" not in ranked:
        raise LensFVError(
            f"instruction vector of {task.name}: the heads were not ranked by instructions; rank them with `lens-fv iv rank`"
        )
    vector = fv.extract(model, instructed, heads, **options, **prompts)
    values = {name: ranked[name] for name in ("instructions", "counterpart")}
    return extracted_printout(vector, out, "instruction", **values)


def _instructed(task: "fv.Task", instructions: Path | None) -> "fv.Task":
    """The task, with the instructions from a file if one is given."""
    return task if instructions is None else replace(task, instructions=fv.tasks.load_instructions(instructions))


def _template(name: str, model: Any) -> Any:
    return fv.tasks.chat_template(model) if name == "chat" else fv.tasks.TEMPLATES[name]
