"""Indirect effects of heads by token class: which heads matter at which tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_fv.core.artefact import Artefact, Provenance, require_shape
from lens_fv.core.choices import Count, Level, Natural, Seed, checked
from lens_fv.core.progress import progress_bar
from lens_fv.core.statistics import Estimate, bootstrap_means
from lens_fv.core.tables import data_frame
from lens_fv.errors import LensFVError
from lens_fv.heads.slots import slot_means
from lens_fv.model.lens_model import LensModel
from lens_fv.patching.check import Method
from lens_fv.patching.edit import Branch, Edit
from lens_fv.patching.readout import answer_logprobs
from lens_fv.patching.run import run_branches
from lens_fv.tasks import TODD, Prompt, PromptTemplate, Split, Task, build_prompts, encode_prompts, split_pairs
from lens_fv.tasks.token_classes import TOKEN_CLASSES, Place, TokenClass, TokenClasses, token_classes

if TYPE_CHECKING:
    import pandas as pd


Metric = Literal["prob", "logprob"]


class ClassEffect(NamedTuple):
    """One head's mean indirect effect at one token class, with its bootstrap interval over trials."""

    layer: int
    head: int
    token_class: str
    effect: Estimate

    @property
    def name(self) -> str:
        """Layer and head, as in "9.3"."""
        return f"{self.layer}.{self.head}"


@checked
@dataclass(frozen=True, repr=False, eq=False)
class ClassEffects(Artefact):
    """Indirect effect of every head on a task, per token class and trial (Todd et al. 2024).

    Attributes:
        effects: Metric with the head's mean clean outputs patched in at all tokens of a class, minus the unpatched metric.
        baseline: Metric of the unedited corrupted prompts.
        classes: Token classes, in the order of the last axis.
        metric: "prob" or "logprob" of the answer's first token.
    """

    effects: Float[Tensor, "trials layers heads classes"]
    baseline: Float[Tensor, " trials"]
    classes: tuple[str, ...]
    metric: Metric

    def __post_init__(self) -> None:
        """Check shapes against the provenance."""
        require_shape("class effects", self.effects, (len(self.baseline), *self.provenance.shape[:2], len(self.classes)))

    @property
    def mean(self) -> Float[Tensor, "layers heads classes"]:
        """Mean indirect effects over trials."""
        return self.effects.mean(0)

    def of(self, token_class: str) -> Float[Tensor, "trials layers heads"]:
        """The effects at one class.

        Raises:
            LensFVError: the class was not measured.
        """
        if token_class not in self.classes:
            raise LensFVError(f"effects at token class {token_class!r}: measured were {', '.join(self.classes)}")
        return self.effects[..., self.classes.index(token_class)]

    @checked
    def interval(self, *, level: Level = 0.95, resamples: Count = 2000) -> Float[Tensor, "2 layers heads classes"]:
        """Percentile bootstrap interval over trials: lower and upper end."""
        values, seed = self.effects.numpy(force=True), self.provenance.seed
        return torch.from_numpy(bootstrap_means(values, level=level, resamples=resamples, seed=seed, batch=50))

    @checked
    def top(self, n: Count | None = None, *, token_class: str | None = None) -> list[ClassEffect]:
        """The `n` largest mean effects (default: all) in descending order, optionally of one token class."""
        if token_class is not None:
            self.of(token_class)
        numbers, trials = torch.stack([self.mean, *self.interval()], -1), len(self.effects)
        effects = [
            ClassEffect(i, j, self.classes[k], Estimate(*numbers[i, j, k].tolist(), n=trials))
            for i, j, k in np.ndindex(*numbers.shape[:3])
            if token_class in (None, self.classes[k])
        ]
        return sorted(effects, key=lambda e: e.effect.mean, reverse=True)[:n]

    def heatmap_data(self) -> Tensor:
        """The mean effect of each layer's strongest head (of either sign) at each class, (layers, classes)."""
        return self.mean.gather(1, self.strongest()[:, None]).squeeze(1)

    def strongest(self) -> Int[Tensor, "layers classes"]:
        """The head of each layer whose mean effect at a class is furthest from zero."""
        return self.mean.abs().argmax(1)

    def to_dataframe(self) -> "pd.DataFrame":
        """One row per head and token class, largest effect first: the effect with its interval and number of trials."""
        return data_frame(self.top())

    def summary(self) -> dict[str, str]:
        """See `Artefact.summary`."""
        top = self.top()
        best = {name: next(e for e in top if e.token_class == name) for name in self.classes}
        rows = {name: f"{e.name} {e.effect:+.3f}" for name, e in best.items()}
        counts = {"trials": str(len(self.effects)), f"{self.metric} unedited": f"{float(self.baseline.mean()):.3f}"}
        return super().summary() | counts | {f"top head at {name}": text for name, text in rows.items()}


@checked
@torch.no_grad()
def class_effects(
    model: LensModel,
    task: Task,
    *,
    classes: Sequence[str] | None = None,
    split: Split | None = None,
    n_shots: Natural = 10,
    n_clean: Count = 100,
    n_trials: Count = 25,
    metric: Metric = "prob",
    shuffle: Literal["permutation", "derangement"] = "permutation",
    template: PromptTemplate = TODD,
    seed: Seed = 0,
    method: Method = "auto",
    progress: bool = False,
) -> ClassEffects:
    """Measure every head's indirect effect on the answer at every token class (Todd et al. 2024).

    For every head and class, the head's output at all tokens of the class, in prompts with shuffled labels, is replaced by
    its mean over clean prompts at the same slot (see `TokenClasses`). The indirect effect is the resulting change in the
    metric of the answer's first token. The prompts are those of `rank_heads`, which measures the class "query_predictive".

    Args:
        model: Model to measure.
        task: Task; demonstrations come from its training split, queries from its validation split.
        classes: Token classes; default: those that occur in the prompts, which is all ten with the paper's template.
        split: Split of the task's pairs; default: `split_pairs(task, seed=seed)`.
        n_shots: Number of demonstrations per prompt.
        n_clean: Number of clean prompts to average over.
        n_trials: Number of corrupted prompts to test on.
        metric: "prob" as in the paper, or "logprob".
        shuffle: How labels are corrupted; see `rank_heads`.
        template: Prompt template.
        seed: Seed of prompts and bootstrap.
        method: See `run_branches`.
        progress: Show a progress bar.

    Raises:
        LensFVError: the model has no heads, a class is unknown or has no token in a prompt, the task has too few pairs, or a
            prompt exceeds the context.
    """
    if not model.attention_layers:
        raise LensFVError(f"class effects in {model.name}: it {model.no_heads()}")
    split = split or split_pairs(task, seed=seed)

    def prompts(n: int, corrupt: Literal["none", "permutation", "derangement"], seed: int) -> list[Prompt]:
        return build_prompts(
            split.validation, split.train, n_shots=n_shots, n_prompts=n, template=template, shuffle=corrupt, seed=seed
        )

    clean, corrupted = prompts(n_clean, "none", seed), prompts(n_trials, shuffle, seed + 1)
    where = [token_classes(model, prompt, template=template) for prompt in corrupted]
    names = _names(where, classes)
    means = slot_means(model, clean, template=template, progress=progress)
    encoded = encode_prompts(model, corrupted)
    layers = list(model.attention_layers)
    heads = [(layer, head) for layer in layers for head in range(model.n_heads)]
    rows: list[Tensor] = []
    with progress_bar("effects by token class", n_trials, show=progress) as step:
        for prompt, found in zip(encoded, where, strict=True):
            answer = prompt.answers[0][:1]
            places = [[(at, _mean(means, found.slots[at])) for at in found.positions(name)] for name in names]
            edits = [
                tuple(Edit(layer, mean[layer, head], head=head, position=at) for at, mean in place)
                for layer, head in heads
                for place in places
            ]
            branches = [Branch(edited, tokens=answer) for edited in ((), *edits)]
            logprob = run_branches(model, [prompt.tokens], branches, readout=answer_logprobs, method=method)[0, :, 0].cpu()
            rows.append(logprob.exp() if metric == "prob" else logprob)
            step()
    values = torch.stack(rows)
    provenance = Provenance.of(
        model,
        task=task.name,
        task_hash=task.fingerprint,
        prompts=[p.tokens for p in (*encode_prompts(model, clean), *encoded)],
        seed=seed,
        method="causal mediation by token class",
        options={
            "n_shots": n_shots,
            "n_clean": n_clean,
            "n_trials": n_trials,
            "metric": metric,
            "shuffle": shuffle,
            "site": "attn.hook_z",
            "position": "all tokens of a class",
            "engine": method,
        },
    )
    effects = values.new_zeros(len(values), model.n_layers, model.n_heads, len(names))
    effects[:, layers] = (values[:, 1:] - values[:, :1]).reshape(-1, len(layers), model.n_heads, len(names))
    return ClassEffects(provenance=provenance, effects=effects, baseline=values[:, 0], classes=names, metric=metric)


def _names(where: Sequence[TokenClasses], asked: Sequence[str] | None) -> tuple[TokenClass, ...]:
    """The requested classes, or by default all that occur in the prompts, in the paper's order."""
    there = {name for found in where for name in found.classes}
    if asked is not None:
        for name in asked:
            where[0].positions(name)
            if name not in there:
                raise LensFVError(f"effects at token class {name!r}: prompts of this template have no such token")
    return tuple(name for name in TOKEN_CLASSES if name in (there if asked is None else asked))


def _mean(means: dict[Place, Tensor], slot: Place | None) -> Tensor:
    if slot is None or slot not in means:
        raise LensFVError(f"effects by token class: no clean prompt has a token at {slot}; average over more clean prompts")
    return means[slot]
