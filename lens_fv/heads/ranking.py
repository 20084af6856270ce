"""Head rankings: every head's indirect effect per trial, and its measurement."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.core.artefact import Provenance, require_shape
from lens_fv.core.choices import Count, Seed, checked
from lens_fv.core.progress import progress_bar
from lens_fv.core.store import load_or_compute
from lens_fv.heads.competence import asked_facts
from lens_fv.heads.corruptions import PatchingPrompts
from lens_fv.heads.effects import Effects, Unit
from lens_fv.heads.indirect import Mode, indirect_effects
from lens_fv.heads.means import HeadMeans, head_outputs
from lens_fv.heads.metrics import Metric
from lens_fv.heads.sources import Source, source_name, source_outputs
from lens_fv.model.lens_model import LensModel
from lens_fv.patching.check import Method
from lens_fv.tasks import Task


@checked
@dataclass(frozen=True, repr=False, eq=False)
class HeadRanking(Effects):
    """Indirect effect of every head on a task, per trial.

    Attributes:
        effects: Metric with the head patched minus the unpatched metric, per corrupted prompt.
        baseline: Unpatched metric of the corrupted prompts.
        z, post_attn_gain, resid_norm: `HeadMeans` over the clean prompts, from which `extract` builds a vector.
        metric: Measure of the answer's first token; see `rank_heads`.
    """

    baseline: Float[Tensor, " trials"]
    z: Float[Tensor, "layers heads d_head"]
    post_attn_gain: Float[Tensor, "layers d_model"]
    resid_norm: Float[Tensor, " layers"]
    metric: Metric

    def __post_init__(self) -> None:
        """Check shapes against the provenance."""
        super().__post_init__()
        layers, heads, d_model, d_head = self.provenance.shape
        require_shape("head ranking's baseline", self.baseline, (len(self.effects),))
        require_shape("head ranking's mean outputs", self.z, (layers, heads, d_head))
        require_shape("head ranking's post_attn_gain", self.post_attn_gain, (layers, d_model))

    def summary(self) -> dict[str, str]:
        """See `Artefact.summary`."""
        unedited = {"trials": str(len(self.effects)), f"{self.metric} unedited": f"{float(self.baseline.mean()):.3f}"}
        return super().summary() | unedited | asked_facts(self.provenance)


@checked
@torch.no_grad()
def rank_contrast(
    model: LensModel,
    task: Task,
    made: PatchingPrompts,
    *,
    options: Mapping[str, Any],
    metric: Metric = "prob",
    wrong: Sequence[int | None] | None = None,
    source: Source | HeadRanking = "mean",
    mode: Mode = "replace",
    unit: Unit = "head",
    seed: Seed = 0,
    method: Method = "auto",
    budget: Count | None = None,
    folder: str | Path | None = None,
    progress: bool = False,
    tick: Callable[[], None] | None = None,
) -> HeadRanking:
    """Rank heads on given clean and corrupted prompts: the final step shared by all rankings.

    Args:
        model: Model to rank.
        task: Task of the prompts.
        made: Clean and corrupted prompts.
        options: Further options to record in the provenance; those that are None are omitted.
        metric: Measure of the answer's first token; this and the following are as in `rank_heads`.
        wrong: See `indirect_effects`.
        source: Output to patch in.
        mode: "replace" or "add".
        unit: "head" or "group".
        seed: Seed the prompts were drawn with.
        method: Method of the engine; see `run_branches`.
        budget: Memory budget of the engine; see `run_branches`.
        folder: Folder to store the ranking in.
        progress: Show a progress bar.
        tick: Called after each prompt.

    Raises:
        LensFVError: the source is a ranking of another model, no head has any effect, or the budget is too small.
    """
    if isinstance(source, HeadRanking):
        source.provenance.check(model)
        source = HeadMeans(source.z, source.post_attn_gain, source.resid_norm)
    said = {
        **options,
        "metric": metric,
        "source": source_name(source),
        "mode": mode,
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
        options={name: value for name, value in said.items() if value is not None},
    )

    def make() -> HeadRanking:
        with progress_bar(f"{task.name}: heads", len(made.clean) + len(made.corrupted), show=progress) as step:
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
            post_attn_gain=means.post_attn_gain.cpu(),
            resid_norm=means.resid_norm.cpu(),
            metric=metric,
            unit=unit,
        )

    return load_or_compute(folder, HeadRanking, provenance, make)
