"""Head rankings for tasks stated by an instruction."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lens_fv.core.choices import Natural, checked
from lens_fv.core.options import takes_options
from lens_fv.errors import LensFVError
from lens_fv.heads.counterparts import Counterpart, counterpart_text
from lens_fv.heads.options import MediationConfig
from lens_fv.heads.protocol import PatchingPrompts, PromptForm, pair_prompts, rank_prompts
from lens_fv.heads.ranking import HeadRanking
from lens_fv.model.lens_model import LensModel
from lens_fv.tasks import Prompt, PromptTemplate, Task, list_tasks, load_task
from lens_fv.tasks.token_classes import token_classes

Uninformative = Counterpart | Literal["noise_on_instruction", "noise_on_query"]


@checked
@dataclass(frozen=True, kw_only=True)
class InstructionRankingConfig(MediationConfig):
    """Options of `rank_instruction_heads`.

    Attributes:
        n_shots: Number of demonstrations after the instruction, in clean and corrupted prompts.
        counterpart: What takes the instruction's place in corrupted prompts: "none" (no text), "other" (another task's
            instruction), "real_text" (running text), "equiprobable" (random tokens as likely as the instruction's), or "half"
            (the same for half of them); or Gaussian noise on the embeddings of the instruction ("noise_on_instruction") or
            the query ("noise_on_query") instead. See `counterpart_text`.
        instructions: Instructions, which alternate over prompts; default: the task's own.
        others: Instructions to choose from for the counterpart "other"; default: those of the other built-in relations.
    """

    n_shots: Natural = 0
    counterpart: Uninformative = "equiprobable"
    instructions: Sequence[str] | None = None
    others: Sequence[str] | None = None


@takes_options(InstructionRankingConfig)
def rank_instruction_heads(model: LensModel, task: Task, options: InstructionRankingConfig) -> HeadRanking:
    """Rank all attention heads by how much of an instruction they carry (Davidson et al. 2025; Jiang et al. 2024).

    For every head, its mean output over prompts with the instruction replaces its output at the last token of prompts with
    an uninformative counterpart. The effect is the resulting change in the metric of the answer's first token.

    Args:
        model: Model to rank.
        task: Task; queries come from its validation split, demonstrations (if any) from its training split.
        options: Keywords: the fields of `InstructionRankingConfig` and its bases.

    Raises:
        LensFVError: no instruction is given, no query is answered, or `counterpart_text` or `rank_heads` raises.

    Example:
        >>> ranking = lens_fv.rank_instruction_heads(model, task, counterpart='none', n_clean=4, n_trials=3)
        >>> len(ranking.top(3))
        3
    """
    return rank_prompts(model, task, make_instruction_prompts(model, task, options), options)


@takes_options(InstructionRankingConfig)
def make_instruction_prompts(model: LensModel, task: Task, options: InstructionRankingConfig) -> PatchingPrompts:
    """Build the prompts of `rank_instruction_heads`, with a task's instructions and with uninformative counterparts.

    To use the prompts for other purposes too, build them here and pass them to `rank_prompts`.

    Args:
        model: Model that reads the prompts.
        task: Task of the prompts.
        options: Keywords of `rank_instruction_heads`.

    Raises:
        LensFVError: the model has no heads, no instruction is given, no query is answered, or `counterpart_text` raises.

    Example:
        >>> prompts = lens_fv.heads.make_instruction_prompts(model, task, n_clean=4, n_trials=3)
        >>> len(prompts.clean), len(prompts.corrupted)
        (4, 3)
    """
    instructions = tuple(task.instructions if options.instructions is None else options.instructions)
    if not instructions:
        raise LensFVError(f"rank heads by the instructions of {task.name}: it has none; give some")
    counterparts = _counterparts(model, task, instructions, options)

    def noised_tokens(prompt: Prompt) -> list[int]:
        return _noised_tokens(model, prompt, options.template, options.counterpart)

    return pair_prompts(
        model,
        task,
        options,
        clean=PromptForm(options.n_shots, instructions),
        corrupted=PromptForm(options.n_shots, counterparts or instructions),
        noised_tokens=noised_tokens if counterparts is None else None,
        recorded={
            "instructions": list(instructions),
            "counterpart": options.counterpart,
            "counterparts": counterparts,
        },
    )


def _noised_tokens(model: LensModel, prompt: Prompt, template: PromptTemplate, counterpart: Uninformative) -> list[int]:
    """Indices of the tokens that receive noise."""
    tokens = token_classes(model, prompt, template=template)
    if counterpart == "noise_on_query":
        return [i for i, name in enumerate(tokens.classes) if name == "query_demonstration"]
    return [i for i, place in enumerate(tokens.places) if place is not None and (place.example, place.part) == (-1, 0)]


def _counterparts(
    model: LensModel, task: Task, instructions: Sequence[str], options: InstructionRankingConfig
) -> list[str | None] | None:
    """The counterpart of each instruction; None if the counterpart is noise, which changes no text."""
    kind, others = options.counterpart, options.others
    if kind == "noise_on_instruction" or kind == "noise_on_query":
        return None
    if others is None and kind == "other":
        # A task with the same pairs under another name does not count as another task.
        tasks = (load_task(name) for name in list_tasks() if name != task.name)
        others = [other.instructions[0] for other in tasks if other.fingerprint != task.fingerprint]
    return [
        counterpart_text(model, text, kind, others=others or (), seed=options.seed + i) for i, text in enumerate(instructions)
    ]
