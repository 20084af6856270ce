"""The cost of a head ranking, before it runs."""

from typing import NamedTuple

import torch

from lens_fv.core.choices import Count, Natural, Seed, checked
from lens_fv.heads.corruptions import Corruption, contrast
from lens_fv.heads.effects import Unit
from lens_fv.model.lens_model import LensModel
from lens_fv.patching.check import Method
from lens_fv.patching.edit import Branch, Edit
from lens_fv.patching.plan import Plan
from lens_fv.patching.run import plan_branches
from lens_fv.tasks import TODD, PromptTemplate, Split, Task, split_pairs


class RankingPlan(NamedTuple):
    """How `rank_heads` would run a task.

    Attributes:
        clean, corrupted: Number of prompts of each kind; each prompt is one run.
        longest: Number of tokens of the longest corrupted prompt.
        run: Plan for that prompt.
    """

    clean: int
    corrupted: int
    longest: int
    run: Plan

    def __str__(self) -> str:
        """The plan in two lines."""
        prompts = f"{self.clean} clean and {self.corrupted} corrupted prompts of up to {self.longest} tokens"
        return f"{prompts}; each of the latter:\n{self.run}"


@checked
def plan_ranking(
    model: LensModel,
    task: Task,
    *,
    split: Split | None = None,
    n_shots: Natural = 10,
    n_clean: Count = 100,
    n_trials: Count = 25,
    corruption: Corruption = "permutation",
    instruction: str | None = None,
    other_instruction: str | None = None,
    unit: Unit = "head",
    template: PromptTemplate = TODD,
    seed: Seed = 0,
    method: Method = "auto",
    budget: Count | None = None,
) -> RankingPlan:
    """Build the prompts of `rank_heads` and plan their runs without running them; arguments are those of `rank_heads`.

    Raises:
        LensFVError: the prompts cannot be built, or the budget is smaller than one row.
    """
    made = contrast(
        model,
        split or split_pairs(task, seed=seed),
        "permutation" if corruption == "noise" else corruption,  # noise leaves the prompts' length unchanged
        n_shots=n_shots,
        n_clean=n_clean,
        n_trials=n_trials,
        template=template,
        instruction=instruction,
        other_instruction=other_instruction,
        seed=seed,
    )
    longest = max((p.tokens for p in made.corrupted), key=len)
    units = model.n_heads if unit == "head" else model.n_kv_heads
    nothing = torch.zeros(model.d_head)
    edits = [Edit(layer, nothing, head=head) for layer in model.attention_layers for head in range(units)]
    branches = [Branch((), (0,)), *(Branch((edit,), (0,)) for edit in edits)]
    (run,) = plan_branches(model, [longest], branches, method=method, budget=budget)
    return RankingPlan(n_clean, n_trials, len(longest), run)
