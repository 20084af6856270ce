"""Head rankings for tasks stated by an instruction."""

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
    """Rank all attention heads by how much of an instruction they carry (Davidson et al. 2025; Jiang et al. 2024).

    For every head, its mean output over prompts with the instruction replaces its output at the last token of prompts with
    an uninformative counterpart. The effect is the resulting change in the metric of the answer's first token. Several
    instructions alternate over prompts.

    Args:
        model: Model to rank.
        task: Task; queries come from its validation split, demonstrations (if any) from its training split.
        instructions: Instructions; default: the task's own.
        counterpart: Uninformative counterpart: see `counterpart_text`, or Gaussian noise added to the embeddings of the
            instruction's or the query's tokens at the input of the first block.
        others: Instructions for the counterpart "other"; default: those of the other built-in relations.
        noise: Standard deviation of the noise, in standard deviations of those embeddings.
        split: Split of the task's pairs; default: `split_pairs(task, seed=seed)`.
        n_shots: Number of demonstrations in clean and corrupted prompts.
        n_clean: Number of clean prompts to average over; this and the following are as in `rank_heads`.
        n_trials: Number of corrupted prompts.
        queries: Validation pairs used as queries: "all", or those "answered" correctly with the instructions (and `n_shots`
            demonstrations); see `choose_queries`. Provenance records both counts.
        metric: Measure of the answer's first token.
        source: Output to patch in.
        mode: "replace" or "add".
        unit: "head" or "group".
        template: Prompt template.
        seed: Seed of all random draws.
        method: Method of the engine; see `run_branches`.
        budget: Memory budget of the engine; see `run_branches`.
        folder: Folder to store the ranking in.
        progress: Show a progress bar.
        tick: Called after each prompt.

    Raises:
        LensFVError: no instruction is given, no query is answered, or `counterpart_text` or `rank_heads` raises.

    Example:
        >>> ranking = lens_fv.rank_instruction_heads(model, task, counterpart='none', n_clean=4, n_trials=3)
        >>> len(ranking.top(3))
        3
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
    """Build prompts with a task's instructions and with uninformative counterparts, and the options to record about them.

    `rank_instruction_heads` ranks heads by these prompts. To use the prompts for other purposes too, build them here and
    pass them to `rank_contrast`.

    Raises:
        LensFVError: no instruction is given, or `counterpart_text`, `choose_queries` or `build_prompts` raises.
    """
    given = tuple(instructions if instructions is not None else task.instructions)
    if not given:
        raise LensFVError(f"rank heads by the instructions of {task.name}: it has none; give some")
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
    """Indices of the tokens that receive noise."""
    found = token_classes(model, prompt, template=template)
    if counterpart == "noise_on_query":
        return [i for i, name in enumerate(found.classes) if name == "query_demonstration"]
    return [i for i, place in enumerate(found.places) if place is not None and (place.example, place.part) == (-1, 0)]


def _counterparts(
    model: LensModel, task: Task, given: Sequence[str], kind: Uninformative, others: Sequence[str] | None, seed: int
) -> list[str | None] | None:
    """The counterpart of each instruction; None if the counterpart is noise, which changes no text."""
    if kind == "noise_on_instruction" or kind == "noise_on_query":
        return None
    if others is None and kind == "other":
        # A task with the same pairs under another name does not count as another task.
        tasks = (load_task(name) for name in list_tasks() if name != task.name)
        others = [other.instructions[0] for other in tasks if other.fingerprint != task.fingerprint]
    return [counterpart_text(model, text, kind, others=others or (), seed=seed + i) for i, text in enumerate(given)]
