"""Indirect effects of heads by token class: which heads matter at which tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_fv.core.artefact import Artefact, require_shape
from lens_fv.core.choices import Count, Level, checked
from lens_fv.core.options import takes_options
from lens_fv.core.progress import progress_bar
from lens_fv.core.statistics import Estimate, bootstrap_means
from lens_fv.core.store import load_or_compute
from lens_fv.core.tables import DataFrame, data_frame
from lens_fv.errors import LensFVError
from lens_fv.heads.means import slot_means
from lens_fv.heads.options import RunConfig
from lens_fv.heads.protocol import make_ranking_prompts, patched_metric
from lens_fv.model.lens_model import LensModel
from lens_fv.patching.edit import Edit
from lens_fv.patching.run import OpenPrompts
from lens_fv.tasks import Task
from lens_fv.tasks.token_classes import TOKEN_CLASSES, TemplatePosition, TokenClass, TokenClasses, token_classes

ClassMetric = Literal["prob", "logprob"]


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
    metric: ClassMetric

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
            if token_class is None or token_class == self.classes[k]
        ]
        return sorted(effects, key=lambda e: e.effect.mean, reverse=True)[:n]

    def heatmap_data(self) -> Tensor:
        """The mean effect of each layer's strongest head (of either sign) at each class, (layers, classes)."""
        return self.mean.gather(1, self.strongest()[:, None]).squeeze(1)

    def strongest(self) -> Int[Tensor, "layers classes"]:
        """The head of each layer whose mean effect at a class is furthest from zero."""
        return self.mean.abs().argmax(1)

    def to_dataframe(self) -> DataFrame:
        """One row per head and token class, largest effect first: the effect with its interval and number of trials."""
        return data_frame(self.top())

    def summary(self) -> dict[str, str]:
        """See `Artefact.summary`."""
        lines = {"trials": str(len(self.effects)), f"baseline {self.metric}": f"{float(self.baseline.mean()):.3f}"}
        effects = self.top()
        for name in self.classes:
            best = next(effect for effect in effects if effect.token_class == name)
            lines[f"top head at {name}"] = f"{best.name} {best.effect:+.3g}"
        return super().summary() | lines


@checked
@dataclass(frozen=True, kw_only=True)
class ClassEffectsConfig(RunConfig):
    """Options of `class_effects`.

    Attributes:
        metric: Effect metric, on the first token of the primary answer: "prob" as in the paper, or "logprob".
        corruption: How the labels of corrupted prompts are shuffled: a random "permutation" or "derangement".
        classes: Token classes; default: those that occur in the prompts, which is all ten with the paper's template.
    """

    metric: ClassMetric = "prob"
    corruption: Literal["permutation", "derangement"] = "permutation"
    classes: Sequence[str] | None = None


@takes_options(ClassEffectsConfig)
@torch.no_grad()
def class_effects(model: LensModel, task: Task, options: ClassEffectsConfig) -> ClassEffects:
    """Measure every head's indirect effect on the answer at every token class (Todd et al. 2024).

    For every head and class, the head's output at all tokens of the class, in prompts with shuffled labels, is replaced by
    its mean over clean prompts at the same slot (see `TokenClasses`). The indirect effect is the resulting change in the
    metric of the answer's first token. The prompts are those of `rank_heads`, which measures the class "query_predictive".

    Args:
        model: Model to measure.
        task: Task; demonstrations come from its training split, queries from its validation split.
        options: Keywords: the fields of `ClassEffectsConfig` and its base.

    Raises:
        LensFVError: the model has no heads, a class is unknown or has no token in a prompt, the task has too few pairs, or a
            prompt exceeds the context.

    Example:
        >>> effects = lens_fv.heads.class_effects(model, task, n_shots=2, n_clean=4, n_trials=2)
        >>> [effect.token_class for effect in effects.top(1)]
        ['query_predictive']
    """
    prompts = make_ranking_prompts(
        model,
        task,
        n_shots=options.n_shots,
        n_clean=options.n_clean,
        n_trials=options.n_trials,
        seed=options.seed,
        corruption=options.corruption,
        split=options.split,
        template=options.template,
    )
    tokens_of = [token_classes(model, prompt, template=options.template) for prompt in prompts.corrupted_texts]
    names = _measured_classes(tokens_of, options.classes)
    provenance = prompts.provenance(
        model,
        task,
        seed=options.seed,
        method="causal mediation by token class",
        options={
            "metric": options.metric,
            "classes": names,
            "site": "attn.hook_z",
            "position": "all tokens of a class",
            "engine": options.backend,
        },
    )

    def compute() -> ClassEffects:
        layers = list(model.attention_layers)
        rows: list[Tensor] = []
        with progress_bar("effects by token class", options.n_clean + options.n_trials, show=options.progress) as bar:
            tick = options.tick or bar
            means = slot_means(model, prompts.clean_texts, template=options.template, tick=tick)
            for prompt, tokens in zip(prompts.corrupted, tokens_of, strict=True):
                class_means = [_means_by_position(tokens, name, means) for name in names]
                patches = [
                    [Edit(layer, mean[layer, head], head=head, position=position) for position, mean in by_position.items()]
                    for layer in layers
                    for head in range(model.n_heads)
                    for by_position in class_means
                ]
                opened = OpenPrompts(model, [prompt.tokens], backend=options.backend, budget=options.budget)
                rows.append(patched_metric(opened, prompt, patches, metric=options.metric)[0])
                tick()
        values = torch.stack(rows)
        effects = values.new_zeros(len(values), model.n_layers, model.n_heads, len(names))
        effects[:, layers] = (values[:, 1:] - values[:, :1]).reshape(-1, len(layers), model.n_heads, len(names))
        return ClassEffects(provenance=provenance, effects=effects, baseline=values[:, 0], classes=names, metric=options.metric)

    return load_or_compute(options.folder, ClassEffects, provenance, compute)


def _measured_classes(prompts: Sequence[TokenClasses], requested: Sequence[str] | None) -> tuple[TokenClass, ...]:
    """The requested classes, or by default all that occur in the prompts, in the paper's order."""
    present = {name for prompt in prompts for name in prompt.classes}
    for name in requested or ():
        prompts[0].positions(name)  # rejects unknown names
        if name not in present:
            raise LensFVError(f"effects at token class {name!r}: prompts of this template have no such token")
    return tuple(name for name in TOKEN_CLASSES if name in (present if requested is None else requested))


def _means_by_position(tokens: TokenClasses, name: str, means: dict[TemplatePosition, Tensor]) -> dict[int, Tensor]:
    """The clean mean at the slot of each token of a class."""
    slots = {position: tokens.slots[position] for position in tokens.positions(name)}
    for slot in slots.values():
        if slot not in means:
            raise LensFVError(f"effects by token class: no clean prompt has a token at {slot}; average over more clean prompts")
    return {position: means[slot] for position, slot in slots.items() if slot is not None}
