"""Which heads carry a task that an instruction asks for."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from lens_fv.core.choices import Count, Natural, NonNegative, Seed, checked
from lens_fv.errors import LensFVError
from lens_fv.heads.competence import Queries, choose_queries
from lens_fv.heads.corruptions import PatchingPrompts, draw_partners, noise_on
from lens_fv.heads.counterparts import Counterpart, counterpart_text
from lens_fv.heads.effects import Unit
from lens_fv.heads.indirect import Mode
from lens_fv.heads.metrics import Metric
from lens_fv.heads.ranking import HeadRanking, rank_contrast
from lens_fv.heads.sources import Source
from lens_fv.model.lens_model import LensModel
from lens_fv.patching.check import Method
from lens_fv.patching.edit import Edit
from lens_fv.tasks import (
    TODD,
    Prompt,
    PromptTemplate,
    Split,
    Task,
    build_prompts,
    encode_prompts,
    list_tasks,
    load_task,
    split_pairs,
)
from lens_fv.tasks.token_classes import token_classes

Uninformative = Counterpart | Literal["noise_on_instruction", "noise_on_query"]


@checked
def rank_instruction_heads(
    model: LensModel,
    task: Task,
    *,
    instructions: Sequence[str] | None = None,
    counterpart: Uninformative = "equiprobable",
    others: Sequence[str] | None = None,
    noise: NonNegative = 3.0,
    split: Split | None = None,
    n_shots: Natural = 0,
    n_clean: Count = 100,
    n_trials: Count = 25,
    queries: Queries = "all",
    metric: Metric = "prob",
    source: Source | HeadRanking = "mean",
    mode: Mode = "replace",
    unit: Unit = "head",
    template: PromptTemplate = TODD,
    seed: Seed = 0,
    method: Method = "auto",
    budget: Count | None = None,
    folder: str | Path | None = None,
    progress: bool = False,
    tick: Callable[[], None] | None = None,
) -> HeadRanking:
    """Rank all attention heads by what they carry of an instruction (Davidson et al. 2025; Jiang et al. 2024).

    For every head: its mean output over prompts with the instruction is put in its place at the last token of prompts with
    an uninformative counterpart; the effect is what that does to the answer's first token. Prompts take turns with the
    instructions.

    Args:
        model: the model.
        task: queries come from its validation split, demonstrations (if any) from its training split.
        instructions: default: the task's own.
        counterpart: see `counterpart_text`; or Gaussian noise on the embeddings of the instruction's or of the query's tokens,
            where the first block reads them.
        others: for the counterpart "other"; default: those of the other built-in relations.
        noise: its standard deviation, in standard deviations of those embeddings.
        split: default: `split_pairs(task, seed=seed)`.
        n_shots: demonstrations, in clean and corrupted prompts alike.
        n_clean: see `rank_heads`, also for all that follows.
        n_trials: corrupted prompts.
        queries: "all" of the validation split, or those "answered" when asked with the instructions (and `n_shots`
            demonstrations); see `choose_queries`. Provenance has both counts.
        metric: of the answer's first token.
        source: what is put in.
        mode: replace or add.
        unit: head or group.
        template: how prompts are written.
        seed: of everything drawn.
        method: of the engine.
        budget: of its memory.
        folder: keep the ranking there.
        progress: draw a progress bar.
        tick: called after each prompt.

    Raises:
        LensFVError: no instruction, no query that is answered, or what `counterpart_text` and `rank_heads` raise.
    """
    made, about = instruction_contrast(
        model,
        task,
        instructions=instructions,
        counterpart=counterpart,
        others=others,
        noise=noise,
        split=split,
        n_shots=n_shots,
        n_clean=n_clean,
        n_trials=n_trials,
        queries=queries,
        template=template,
        seed=seed,
        folder=folder,
    )
    return rank_contrast(
        model,
        task,
        made,
        options=about,
        metric=metric,
        source=source,
        mode=mode,
        unit=unit,
        seed=seed,
        method=method,
        budget=budget,
        folder=folder,
        progress=progress,
        tick=tick,
    )


@checked
def instruction_contrast(
    model: LensModel,
    task: Task,
    *,
    instructions: Sequence[str] | None = None,
    counterpart: Uninformative = "equiprobable",
    others: Sequence[str] | None = None,
    noise: NonNegative = 3.0,
    split: Split | None = None,
    n_shots: Natural = 0,
    n_clean: Count = 100,
    n_trials: Count = 25,
    queries: Queries = "all",
    template: PromptTemplate = TODD,
    seed: Seed = 0,
    folder: str | Path | None = None,
) -> tuple[PatchingPrompts, dict[str, Any]]:
    """Prompts with a task's instructions, and prompts with uninformative counterparts; and what is to be noted about them.

    See `rank_instruction_heads`, which ranks by them. `rank_contrast` does so where they are needed for more than that.

    Raises:
        LensFVError: no instruction, or what `counterpart_text`, `choose_queries` and `build_prompts` raise.
    """
    given = tuple(instructions if instructions is not None else task.instructions)
    if not given:
        raise LensFVError(f"rank heads by the instructions of {task.name}: it has none; give some")
    if n_trials < 1 or n_clean < 1:
        raise LensFVError(f"rank heads on {n_clean} clean prompts and {n_trials} trials: each must be at least 1")
    split = split or split_pairs(task, seed=seed)
    asked = choose_queries(
        model,
        task,
        split.validation,
        queries,
        split=split,
        n_shots=n_shots,
        template=template,
        instruction=given,
        seed=seed,
        folder=folder,
    )
    pairs = asked.of(split.validation)
    instead = _counterparts(model, task, given, counterpart, others, seed)

    def prompts(n: int, texts: Sequence[str | None], seed: int) -> list[Prompt]:
        return build_prompts(pairs, split.train, n_shots=n_shots, n_prompts=n, template=template, instruction=texts, seed=seed)

    clean, corrupted = prompts(n_clean, given, seed), prompts(n_trials, instead or given, seed + 1)
    encoded = encode_prompts(model, corrupted)
    edits: list[list[Edit]] = [[] for _ in corrupted]
    if instead is None:
        edits = noise_on(model, encoded, [_noisy_tokens(model, p, template, counterpart) for p in corrupted], noise, seed)
    made = PatchingPrompts(
        clean=encode_prompts(model, clean),
        corrupted=encoded,
        queries=[p.query for p in corrupted],
        partners=draw_partners(clean, corrupted, seed),
        edits=edits,
    )
    about = {
        "n_shots": n_shots,
        "n_clean": n_clean,
        "n_trials": n_trials,
        "instructions": list(given),
        "counterpart": counterpart,
        "counterparts": instead,
        "noise": noise if instead is None else None,
        **asked.noted,
    }
    return made, about


def _noisy_tokens(model: LensModel, prompt: Prompt, template: PromptTemplate, counterpart: Uninformative) -> list[int]:
    """The tokens whose embeddings get noise."""
    found = token_classes(model, prompt, template=template)
    if counterpart == "noise_on_query":
        return [i for i, name in enumerate(found.classes) if name == "query_demonstration"]
    return [i for i, place in enumerate(found.places) if place is not None and (place.example, place.part) == (-1, 0)]


def _counterparts(
    model: LensModel, task: Task, given: Sequence[str], kind: Uninformative, others: Sequence[str] | None, seed: int
) -> list[str | None] | None:
    """What stands where each instruction stood; nothing else does if it is noise that takes it away."""
    if kind == "noise_on_instruction" or kind == "noise_on_query":
        return None
    if others is None and kind == "other":
        # What asks for the same pairs under another name is no other task.
        tasks = (load_task(name) for name in list_tasks() if name != task.name)
        others = [other.instructions[0] for other in tasks if other.fingerprint != task.fingerprint]
    return [counterpart_text(model, text, kind, others=others or (), seed=seed + i) for i, text in enumerate(given)]
