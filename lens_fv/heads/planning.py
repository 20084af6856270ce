"""The cost of a head ranking, before it runs."""

from dataclasses import replace
from typing import NamedTuple

import torch

from lens_fv.core.options import takes_options
from lens_fv.heads.options import RankingConfig
from lens_fv.heads.protocol import make_ranking_prompts
from lens_fv.model.lens_model import LensModel
from lens_fv.patching.edit import Branch, Edit
from lens_fv.patching.plan import Plan
from lens_fv.patching.run import plan_branches
from lens_fv.tasks import Task


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


@takes_options(RankingConfig)
def plan_ranking(model: LensModel, task: Task, options: RankingConfig) -> RankingPlan:
    """Build the prompts of `rank_heads` and plan their runs without running them.

    The model is not run, so all queries are used, whatever `queries` is.

    Args:
        model: Model that would be ranked.
        task: Task that would be ranked.
        options: Keywords of `rank_heads`.

    Raises:
        LensFVError: the prompts cannot be built, or the budget is smaller than one row.

    Example:
        >>> plan = lens_fv.heads.plan_ranking(model, task, n_shots=2, n_clean=4, n_trials=3)
        >>> plan.clean, plan.corrupted
        (4, 3)
    """
    # Noise changes no prompt's length, and drawing it would run the model.
    corruption = "permutation" if options.corruption == "noise" and options.n_shots > 1 else options.corruption
    prompts = make_ranking_prompts(model, task, replace(options, queries="all", corruption=corruption))
    longest = max((prompt.tokens for prompt in prompts.corrupted), key=len)
    n_units = model.n_heads if options.unit == "head" else model.n_kv_heads
    nothing = torch.zeros(model.d_head)
    edits = [Edit(layer, nothing, head=unit) for layer in model.attention_layers for unit in range(n_units)]
    branches = [Branch((), (0,)), *(Branch((edit,), (0,)) for edit in edits)]
    (run,) = plan_branches(model, [longest], branches, backend=options.backend, budget=options.budget)
    return RankingPlan(options.n_clean, options.n_trials, len(longest), run)
