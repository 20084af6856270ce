"""Which heads carry a task: every head's indirect effect, exactly."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.artefact import Provenance, require_shape
from lens_fv.errors import LensFVError
from lens_fv.heads.corruptions import Corruption, contrast
from lens_fv.heads.effects import Effects, Unit
from lens_fv.heads.indirect import Mode, alternatives, indirect_effects
from lens_fv.heads.means import HeadMeans, head_outputs
from lens_fv.heads.metrics import Metric
from lens_fv.heads.sources import Source, source_name, source_outputs
from lens_fv.kept import keep
from lens_fv.model.lens_model import LensModel
from lens_fv.patching.check import Method
from lens_fv.progress import progress_bar
from lens_fv.tasks import TODD, PromptTemplate, Split, Task, split_pairs


@dataclass(frozen=True, repr=False, eq=False)
class HeadRanking(Effects):
    """Every head's indirect effect on a task, trial by trial.

    Attributes:
        effects: metric with the head patched, minus the metric without, per corrupted prompt.
        baseline: the metric of the corrupted prompts, no head patched.
        z, carry, resid_norm: see `HeadMeans`, over the clean prompts: what `extract` makes a vector from.
        metric: what was measured of the answer's first token; see `rank_heads`.
    """

    baseline: Float[Tensor, " trials"]
    z: Float[Tensor, "layers heads d_head"]
    carry: Float[Tensor, "layers d_model"]
    resid_norm: Float[Tensor, " layers"]
    metric: Metric

    def __post_init__(self) -> None:
        """Check shapes against the provenance."""
        super().__post_init__()
        layers, heads, d_model, d_head = self.provenance.shape
        require_shape("head ranking's baseline", self.baseline, (len(self.effects),))
        require_shape("head ranking's mean outputs", self.z, (layers, heads, d_head))
        require_shape("head ranking's carry", self.carry, (layers, d_model))

    def facts(self) -> dict[str, str]:
        """See `Artefact.facts`."""
        unedited = {"trials": str(len(self.effects)), f"{self.metric} unedited": f"{float(self.baseline.mean()):.3f}"}
        return super().facts() | unedited


@torch.no_grad()
def rank_heads(
    model: LensModel,
    task: Task,
    *,
    split: Split | None = None,
    n_shots: int = 10,
    n_clean: int = 100,
    n_trials: int = 25,
    metric: Metric = "prob",
    against: str | Mapping[str, str] | None = None,
    source: Source | HeadRanking = "mean",
    mode: Mode = "replace",
    corruption: Corruption = "permutation",
    instruction: str | None = None,
    other_instruction: str | None = None,
    noise: float = 3.0,
    unit: Unit = "head",
    template: PromptTemplate = TODD,
    seed: int = 0,
    method: Method = "auto",
    budget: int | None = None,
    folder: str | Path | None = None,
    progress: bool = False,
    tick: Callable[[], None] | None = None,
) -> HeadRanking:
    """Rank all attention heads by causal mediation (Todd et al. 2024).

    For every head: its mean output over clean few-shot prompts is put in its place at the last token of prompts whose
    labels are shuffled; the indirect effect is what that does to the answer's first token. Exact, for all heads at once.

    Args:
        model: the model.
        task: the task; demonstrations come from its training split, queries from its validation split.
        split: default: `split_pairs(task, seed=seed)`.
        n_shots: demonstrations a prompt.
        n_clean: clean prompts to average over.
        n_trials: corrupted prompts to test on.
        metric: of the primary answer's first token: "prob" (Todd et al. 2024), "logprob", "logit", or "logit_diff": its logit
            minus that of the strongest wrong alternative: the token that the corrupted prompt, no head patched, makes the
            likeliest of all that begin no acceptable answer; the same for all heads.
        against: name that alternative: an answer to compare with at every query, or one by the query's input.
        source: what is put in: "mean" over the clean prompts, "zero", "resample" (what the head says in one other clean
            prompt, drawn anew for every trial), the means of another task's ranking, or `head_means` of any other prompts.
        mode: "replace" the head's output by it (Todd et al. 2024) or "add" it (instruction vectors: Jiang et al. 2024).
        corruption: what the corrupted prompts lack; see `contrast`, also for `instruction`, `other_instruction`, `noise`.
        instruction: in front of clean (and, but for the corruption "instruction", corrupted) prompts.
        other_instruction: in front of the corrupted prompts of the corruption "instruction"; default: nothing.
        noise: standard deviation for the corruption "noise", in standard deviations of the embeddings.
        unit: "head", or "group": all query heads that share their keys and values, patched together.
        template: how prompts are written.
        seed: of prompts, draws and bootstrap.
        method: see `run_branches`.
        budget: see `run_branches`; `plan_ranking` says what there is to spend it on.
        folder: keep the ranking there; one that was made in the same way is loaded, not made again.
        progress: draw a progress bar.
        tick: called after each of the `n_clean` + `n_trials` prompts, for a bar of one's own.

    Raises:
        LensFVError: a model without heads, too few pairs, a prompt longer than the context, a corruption that changes nothing,
            no head that changes anything (hooks that do not fire, then), or a budget smaller than one row.
    """
    if not model.attention_layers:
        raise LensFVError(f"rank heads of {model.name}: it has no attention heads")
    split = split or split_pairs(task, seed=seed)
    if isinstance(source, HeadRanking):
        source.provenance.check(model)
        source = HeadMeans(source.z, source.carry, source.resid_norm)
    made = contrast(
        model,
        split,
        corruption,
        n_shots=n_shots,
        n_clean=n_clean,
        n_trials=n_trials,
        template=template,
        instruction=instruction,
        other_instruction=other_instruction,
        noise=noise,
        seed=seed,
    )
    if against is not None and metric != "logit_diff":
        raise LensFVError(f'rank heads by {metric} against {against!r}: only metric="logit_diff" compares')
    wrong = [None] * n_trials if against is None else alternatives(model, made.queries, against, template)
    options = {
        "n_shots": n_shots,
        "n_clean": n_clean,
        "n_trials": n_trials,
        "metric": metric,
        "against": {q.input: against[q.input] for q in made.queries} if isinstance(against, Mapping) else against,
        "source": source_name(source),
        "mode": mode,
        "corruption": corruption,
        "instruction": instruction,
        "other_instruction": other_instruction,
        "noise": noise if corruption == "noise" else None,
        "unit": unit,
        "site": "attn.hook_z",
        "position": "last prompt token",
        "engine": method,
    }
    provenance = Provenance.of(
        model,
        task=task.name,
        task_hash=task.fingerprint,
        prompts=[p.tokens for p in (*made.clean, *made.corrupted)],
        seed=seed,
        method="causal mediation",
        options={name: value for name, value in options.items() if value is not None},
    )

    def make() -> HeadRanking:
        with progress_bar(f"{task.name}: heads", n_clean + n_trials, show=progress) as step:
            each_prompt = tick or step
            means, each = head_outputs(model, [p.tokens for p in made.clean], tick=each_prompt)
            outputs = source_outputs(source, means, each, made.partners)
            effects, baseline = indirect_effects(
                model,
                made,
                outputs,
                metric=metric,
                wrong=wrong,
                mode=mode,
                unit=unit,
                method=method,
                budget=budget,
                tick=each_prompt,
            )
        return HeadRanking(
            provenance=provenance,
            effects=effects,
            baseline=baseline,
            z=means.z.cpu(),
            carry=means.carry.cpu(),
            resid_norm=means.resid_norm.cpu(),
            metric=metric,
            unit=unit,
        )

    return keep(folder, HeadRanking, provenance, make)
