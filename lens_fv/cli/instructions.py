"""Commands for instruction vectors: iv rank, iv extract."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lens_fv.cli.heads import Clean, Correction, Noise, Out, Top, Trials, asked_line, asked_of, heads_table, reliability_of
from lens_fv.cli.options import DEFAULT_MODEL, AsJson, Device, Dtype, ModelName, Seed, TaskName, emit, open_model
from lens_fv.cli.vectors import Heads
from lens_fv.core.files import file_name

if TYPE_CHECKING:
    from lens_fv.heads import HeadRanking
    from lens_fv.model import LensModel
    from lens_fv.tasks import PromptTemplate, Task

iv = typer.Typer(
    help="Instruction vectors: rank the heads that carry an instruction, and extract its vector.", no_args_is_help=True
)
Instructions = Annotated[
    Path | None, typer.Option("--instructions", help="File of instructions; default: the task's own, if it has any.")
]
Demonstrations = Annotated[int, typer.Option("--shots", min=0, help="Number of demonstrations after the instruction.")]
Against = Annotated[
    Literal["none", "other", "real_text", "half", "equiprobable", "noise_on_instruction", "noise_on_query"],
    typer.Option("--counterpart", help="Counterpart prompts: what takes the instruction's place."),
]
Template = Annotated[
    Literal["todd", "arrow", "input-output", "natural", "chat"],
    typer.Option("--template", help="Prompt template; chat: the model's own chat format."),
]
AskedAll = Literal["all", "answered"]
ASKED = "Queries: all, or those the model answers under the instructions"
Ranking = Annotated[Path | None, typer.Option("--ranking", help="Ranking file written by `iv rank`; default: rank now.")]


@iv.command()
def rank(
    model: ModelName = DEFAULT_MODEL,
    task: TaskName = "present-past",
    instructions: Instructions = None,
    counterpart: Against = "equiprobable",
    shots: Demonstrations = 0,
    clean: Clean = 100,
    trials: Trials = 25,
    queries: Annotated[AskedAll, typer.Option(help=f"{ASKED}.")] = "all",
    metric: Annotated[
        Literal["prob", "logprob", "logit"], typer.Option(help="Effect metric, on the answer's first token.")
    ] = "prob",
    mode: Annotated[
        Literal["replace", "add"], typer.Option(help="How the value is patched: replace the head's output, or add to it.")
    ] = "replace",
    noise: Noise = 3.0,
    template: Template = "todd",
    correction: Correction = "holm",
    top: Top = 10,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    out: Out = None,
) -> None:
    """Rank all attention heads by their indirect effect on following an instruction.

    Writes the ranking to --out (default: TASK-instruction-ranking.safetensors).
    """
    from lens_fv.heads import rank_instruction_heads

    the_task = instructed_task(task, instructions)
    lens = open_model(model, device, dtype)
    ranking = rank_instruction_heads(
        lens,
        the_task,
        counterpart=counterpart,
        noise=noise,
        n_shots=shots,
        n_clean=clean,
        n_trials=trials,
        queries=queries,
        metric=metric,
        mode=mode,
        template=template_named(template, lens),
        seed=seed,
        progress=True,
    )
    path = ranking.save(out or Path(f"{file_name(the_task.name)}-instruction-ranking.safetensors"))
    heads, table = heads_table(
        ranking, correction, top, title=f"{the_task.name} on {lens.name}: instruction against {counterpart}"
    )
    payload = {
        "model": lens.name,
        "task": the_task.name,
        "instructions": list(the_task.instructions),
        "counterpart": counterpart,
        "counterparts": ranking.provenance.options.get("counterparts"),
        "metric": metric,
        "queries": asked_of(ranking.provenance.options),
        "baseline": float(ranking.baseline.mean()),
        "correction": correction,
        "heads": heads,
        "reliability": reliability_of(ranking),
        "file": str(path),
    }
    emit(payload, as_json, table, *asked_line(ranking.provenance.options), f"written to {path}")


@iv.command()
def extract(
    model: ModelName = DEFAULT_MODEL,
    task: TaskName = "present-past",
    ranking: Ranking = None,
    instructions: Instructions = None,
    counterpart: Against = "equiprobable",
    heads: Heads = 10,
    layer: Annotated[
        int | None, typer.Option(help="Layer after which the vector is added; default: chosen on the validation split.")
    ] = None,
    shots: Demonstrations = 0,
    clean: Clean = 100,
    trials: Trials = 25,
    queries: Annotated[AskedAll | None, typer.Option(help=f"{ASKED}; default: as in --ranking.")] = None,
    template: Template = "todd",
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    out: Out = None,
) -> None:
    """Extract an instruction vector from the strongest heads.

    Writes the vector to --out (default: TASK-instruction.safetensors).
    """
    from lens_fv.vectors import extract_instruction

    the_task = instructed_task(task, instructions)
    lens = open_model(model, device, dtype)
    written = template_named(template, lens)
    ranked = _ranking(lens, the_task, ranking, counterpart, shots, clean, trials, written, seed, queries or "all")
    vector = extract_instruction(lens, the_task, ranked, n_heads=heads, layer=layer, queries=queries, template=written)
    path = vector.save(out or Path(f"{file_name(the_task.name)}-instruction.safetensors"))
    payload = {
        "model": lens.name,
        "task": the_task.name,
        "instructions": list(vector.instructions),
        "counterpart": vector.counterpart,
        "layer": vector.layer,
        "queries": asked_of(vector.provenance.options),
        "heads": [list(head) for head in vector.heads],
        "norm_in_residuals": vector.norm,
        "file": str(path),
    }
    emit(payload, as_json, repr(vector), f"written to {path}")


def instructed_task(name: str, instructions: Path | None) -> "Task":
    """Load the task, with the instructions from a file if one is given."""
    from lens_fv.tasks import load_instructions, load_task

    task = load_task(name)
    return task if instructions is None else replace(task, instructions=load_instructions(instructions))


def template_named(name: str, model: Any) -> "PromptTemplate":
    """Return a named template, or the model's own chat template."""
    from lens_fv.tasks import TEMPLATES, chat_template

    return chat_template(model) if name == "chat" else TEMPLATES[name]


def _ranking(
    model: "LensModel",
    task: "Task",
    path: Path | None,
    counterpart: Against,
    shots: int,
    clean: int,
    trials: int,
    template: "PromptTemplate",
    seed: int,
    queries: AskedAll,
) -> "HeadRanking":
    from lens_fv.heads import HeadRanking, rank_instruction_heads

    if path is not None:
        return HeadRanking.load(path)
    return rank_instruction_heads(
        model,
        task,
        counterpart=counterpart,
        n_shots=shots,
        n_clean=clean,
        n_trials=trials,
        queries=queries,
        template=template,
        seed=seed,
        progress=True,
    )
