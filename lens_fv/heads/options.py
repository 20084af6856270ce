"""Options of head rankings. Each name, type, default and help text is stated here once (`takes_options`)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lens_fv.core.choices import Count, Natural, NonNegative, Seed, checked
from lens_fv.errors import LensFVError
from lens_fv.heads.competence import Queries
from lens_fv.heads.means import HeadMeans
from lens_fv.heads.ranking import HeadRanking, Metric, Unit
from lens_fv.patching.backends import BackendChoice
from lens_fv.tasks import TODD, PromptTemplate, Split

Mode = Literal["replace", "add"]
Corruption = Literal["permutation", "derangement", "zero_shot", "instruction", "noise"]
Source = Literal["mean", "zero", "resample"] | HeadMeans | HeadRanking


@checked
@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Which prompts are drawn, and how a measurement on them runs.

    Attributes:
        n_shots: Number of demonstrations per prompt.
        n_clean: Number of clean prompts over which head outputs are averaged.
        n_trials: Number of corrupted prompts on which effects are measured.
        seed: Seed of the split, the prompts, all random draws and the bootstrap.
        split: Split of the task's pairs: demonstrations come from its training part, queries from its validation part;
            default: `split_pairs(task, seed=seed)`.
        template: Prompt template.
        backend: Way to run the patches; "auto" takes the fastest that agrees with the plain loop on this model. See
            `run_branches`.
        budget: Memory for activations, in bytes; see `run_branches`. `plan_ranking` shows what a run needs.
        folder: Folder in which the result is stored; a stored result of the same settings is loaded instead of recomputed.
        progress: Show a progress bar.
        tick: Called after each of the `n_clean` + `n_trials` prompts, for a custom progress bar.
    """

    n_shots: Natural = 10
    n_clean: Count = 100
    n_trials: Count = 25
    seed: Seed = 0
    split: Split | None = None
    template: PromptTemplate = TODD
    backend: BackendChoice = "auto"
    budget: Count | None = None
    folder: str | Path | None = None
    progress: bool = False
    tick: Callable[[], None] | None = None


@checked
@dataclass(frozen=True, kw_only=True)
class MediationConfig(RunConfig):
    """Options that rankings by demonstrations and by instructions share.

    Attributes:
        queries: Validation pairs used as queries: "all", or those that the model "answered" correctly in clean prompts
            (Todd et al. 2024). Provenance records both counts.
        metric: Effect metric, on the first token of the primary answer: "prob" (Todd et al. 2024), "logprob", "logit", or
            "logit_diff", its logit minus that of the foil.
        foil: Wrong answer for "logit_diff": one for all queries, or a mapping from query input to answer; default: the
            likeliest token on the unpatched corrupted prompt that begins no acceptable answer, the same for all heads.
        source: Output to patch in: "mean" over the clean prompts (Todd et al. 2024), "zero", "resample" (the head's output on
            one other clean prompt, drawn for each trial), the means of another task's ranking, or `head_means` of any prompts.
        mode: How the value is patched in: "replace" the head's output (Todd et al. 2024), or "add" to it (Jiang et al. 2024).
        unit: Unit to patch: single heads ("head"), or all query heads that share keys and values together ("group").
        noise: Standard deviation of the noise, where noise corrupts prompts, in standard deviations of the noised embeddings.
    """

    queries: Queries = "all"
    metric: Metric = "prob"
    foil: str | Mapping[str, str] | None = None
    source: Source = "mean"
    mode: Mode = "replace"
    unit: Unit = "head"
    noise: NonNegative = 3.0

    def __post_init__(self) -> None:
        """Check that a foil is used."""
        if self.foil is not None and self.metric != "logit_diff":
            raise LensFVError(f'rank heads by {self.metric} with foil {self.foil!r}: only metric="logit_diff" has a foil')


@checked
@dataclass(frozen=True, kw_only=True)
class RankingConfig(MediationConfig):
    """Options of `rank_heads`.

    Attributes:
        corruption: How corrupted prompts differ from clean ones: labels in a random "permutation" or "derangement",
            "zero_shot" (no demonstrations), another "instruction" or none, or Gaussian "noise" on the embeddings of the
            demonstrations (Meng et al. 2022 add it to those of the subject).
        instruction: Text before the clean prompts, and before the corrupted ones unless the corruption is "instruction".
        other_instruction: Text before the corrupted prompts for the corruption "instruction"; default: none.

    Raises:
        LensFVError: the corruption would change nothing, or the options contradict each other.

    Example:
        >>> RankingConfig(n_trials=50, metric="logprob").n_clean
        100
    """

    corruption: Corruption = "permutation"
    instruction: str | None = None
    other_instruction: str | None = None

    def __post_init__(self) -> None:
        """Check that the corruption changes something."""
        super().__post_init__()
        if self.corruption == "instruction":
            if not self.instruction or self.instruction == self.other_instruction:
                raise LensFVError(
                    f"corrupt the instruction {self.instruction!r} to {self.other_instruction!r}: "
                    "give an instruction, and another or none"
                )
        elif self.other_instruction is not None:
            raise LensFVError(f'another instruction with the corruption {self.corruption!r}: use corruption="instruction"')
        least = {"instruction": 0, "zero_shot": 1, "noise": 1}.get(self.corruption, 2)
        if self.n_shots < least:
            raise LensFVError(
                f"corruption {self.corruption!r} of {self.n_shots}-shot prompts changes nothing: use {least} shots or more"
            )
