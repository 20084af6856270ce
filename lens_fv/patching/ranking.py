"""Which heads carry a task: every head's indirect effect, exactly."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from lens_fv.artefact import Artefact, Provenance, require_shape
from lens_fv.errors import LensFVError
from lens_fv.model.lens_model import LensModel
from lens_fv.patching.check import Method
from lens_fv.patching.edit import Branch, Edit
from lens_fv.patching.means import HeadMeans, head_means
from lens_fv.patching.readout import answer_logprobs
from lens_fv.patching.run import run_branches
from lens_fv.progress import progress_bar
from lens_fv.tasks import TODD, EncodedPrompt, PromptTemplate, Split, Task, build_prompts, encode_prompts, split_pairs

Metric = Literal["prob", "logprob"]


class HeadEffect(NamedTuple):
    """One head's mean indirect effect with its bootstrap interval over trials."""

    layer: int
    head: int
    effect: float
    low: float
    high: float

    @property
    def name(self) -> str:
        """Layer and head, as in "9.3"."""
        return f"{self.layer}.{self.head}"


@dataclass(frozen=True, repr=False, eq=False)
class HeadRanking(Artefact):
    """Every head's indirect effect on a task, trial by trial.

    Attributes:
        effects: metric with the head's mean clean output put in, minus the metric without, per corrupted prompt.
        baseline: the metric of the corrupted prompts, unedited.
        z, carry, resid_norm: see `HeadMeans`: what `extract` makes a vector from.
        metric: "prob" (Todd et al. 2024) or "logprob" of the answer's first token.
    """

    effects: Float[Tensor, "trials layers heads"]
    baseline: Float[Tensor, " trials"]
    z: Float[Tensor, "layers heads d_head"]
    carry: Float[Tensor, "layers d_model"]
    resid_norm: Float[Tensor, " layers"]
    metric: Metric

    def __post_init__(self) -> None:
        """Check shapes against the provenance."""
        layers, heads, d_model, d_head = self.provenance.shape
        require_shape("head ranking's effects", self.effects, (len(self.baseline), layers, heads))
        require_shape("head ranking's mean outputs", self.z, (layers, heads, d_head))
        require_shape("head ranking's carry", self.carry, (layers, d_model))

    @property
    def mean(self) -> Float[Tensor, "layers heads"]:
        """The average indirect effect of each head."""
        return self.effects.mean(0)

    def interval(self, *, level: float = 0.95, resamples: int = 2000) -> Float[Tensor, "2 layers heads"]:
        """Percentile bootstrap over trials: lower and upper end per head."""
        values = self.effects.numpy(force=True)
        if len(values) < 2:
            return self.effects.repeat(2, 1, 1)[:2]
        found = stats.bootstrap(
            (values,),
            np.mean,
            axis=0,
            n_resamples=resamples,
            batch=200,
            confidence_level=level,
            method="percentile",
            rng=np.random.default_rng(self.provenance.seed),
        )
        return torch.from_numpy(np.stack([found.confidence_interval.low, found.confidence_interval.high]))

    def top(self, n: int | None = None) -> list[HeadEffect]:
        """The `n` heads (all, by default) of largest mean effect, from the largest."""
        low, high = self.interval()
        heads = self.mean.shape[1]
        order = self.mean.flatten().argsort(descending=True, stable=True)[:n].tolist()
        return [HeadEffect(i // heads, i % heads, *(float(x.flatten()[i]) for x in (self.mean, low, high))) for i in order]

    def grid(self) -> Tensor:
        """The mean effects."""
        return self.mean

    def facts(self) -> dict[str, str]:
        """See `Artefact.facts`."""
        best = ", ".join(f"{h.name} {h.effect:+.3f} [{h.low:+.3f}, {h.high:+.3f}]" for h in self.top(5))
        return super().facts() | {
            "trials": str(len(self.effects)),
            f"{self.metric} unedited": f"{float(self.baseline.mean()):.3f}",
            "top heads": best,
        }


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
    shuffle: Literal["permutation", "derangement"] = "permutation",
    template: PromptTemplate = TODD,
    seed: int = 0,
    method: Method = "auto",
    progress: bool = False,
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
        metric: "prob" as in the paper, or "logprob".
        shuffle: how labels are corrupted: a permutation leaves some right by chance, a derangement none.
        template: how prompts are written.
        seed: of prompts and bootstrap.
        method: see `run_branches`.
        progress: draw a progress bar.

    Raises:
        LensFVError: too few pairs, a prompt longer than the context, or no head that changes anything (hooks that do not
            fire, then).
    """
    if n_trials < 1 or n_clean < 1:
        raise LensFVError(f"rank heads on {n_clean} clean prompts and {n_trials} trials: each must be at least 1")
    split = split or split_pairs(task, seed=seed)

    def prompts(n: int, corrupt: Literal["none", "permutation", "derangement"], seed: int) -> list[EncodedPrompt]:
        made = build_prompts(
            split.validation, split.train, n_shots=n_shots, n_prompts=n, template=template, shuffle=corrupt, seed=seed
        )
        return encode_prompts(model, made)

    clean, corrupted = prompts(n_clean, "none", seed), prompts(n_trials, shuffle, seed + 1)
    means = head_means(model, [p.tokens for p in clean], progress=progress)
    effects, baseline = indirect_effects(model, corrupted, means, metric=metric, method=method, progress=progress)
    # Rows that are not edited at all still differ in rounding.
    rounding = min(64 * torch.finfo(model.dtype).eps, 0.05) * baseline.abs()
    if (effects.abs().amax((1, 2)) <= rounding).all():
        raise LensFVError(f"rank heads of {model.name}: no head changes anything, so its hooks do not fire; run verify")
    options = {
        "n_shots": n_shots,
        "n_clean": n_clean,
        "n_trials": n_trials,
        "metric": metric,
        "shuffle": shuffle,
        "site": "attn.hook_z",
        "position": "last prompt token",
        "engine": method,
    }
    provenance = Provenance.of(
        model,
        task=task.name,
        task_hash=task.fingerprint,
        prompts=[p.tokens for p in (*clean, *corrupted)],
        seed=seed,
        method="causal mediation",
        options=options,
    )
    return HeadRanking(
        provenance=provenance,
        effects=effects,
        baseline=baseline,
        z=means.z.cpu(),
        carry=means.carry.cpu(),
        resid_norm=means.resid_norm.cpu(),
        metric=metric,
    )


def indirect_effects(
    model: LensModel,
    prompts: list[EncodedPrompt],
    means: HeadMeans,
    *,
    metric: Metric,
    method: Method = "auto",
    progress: bool = False,
) -> tuple[Float[Tensor, "trials layers heads"], Float[Tensor, " trials"]]:
    """Each head's effect on each prompt's first answer token, and the unedited metric."""
    heads = [(layer, head) for layer in range(model.n_layers) for head in range(model.n_heads)]
    branches = [(), *((Edit(layer, means.z[layer, head], head=head),) for layer, head in heads)]
    rows: list[Tensor] = []
    with progress_bar("indirect effects", len(prompts), show=progress) as step:
        for prompt in prompts:
            asked = [Branch(edits, tokens=prompt.answers[0][:1]) for edits in branches]
            logprob = run_branches(model, [prompt.tokens], asked, readout=answer_logprobs, method=method)[0, :, 0].cpu()
            rows.append(logprob.exp() if metric == "prob" else logprob)
            step()
    values = torch.stack(rows)
    return (values[:, 1:] - values[:, :1]).reshape(-1, model.n_layers, model.n_heads), values[:, 0]
