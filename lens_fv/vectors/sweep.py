"""Injection sweeps: the effect of a vector at every layer and scale."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_fv.core.artefact import Artefact, Provenance, require_shape
from lens_fv.core.choices import Count, Finite, Level, Whole, checked
from lens_fv.core.statistics import Estimate, bootstrap_means, proportion
from lens_fv.core.tables import DataFrame, data_frame
from lens_fv.errors import LensFVError
from lens_fv.model.lens_model import LensModel
from lens_fv.patching import score_answers
from lens_fv.tasks import TODD, PromptTemplate, Split, Task, encode_prompts, split_pairs, zero_shot
from lens_fv.vectors.function_vector import FunctionVector, Site, V
from lens_fv.vectors.options import SCALES, as_list, layers_of

Measure = Literal["top1", "exact_match", "logprob"]
Part = Literal["validation", "test"]


class SweepCell(NamedTuple):
    """Results at one layer and scale.

    Attributes:
        top1: Fraction of items where the likeliest first token begins an acceptable answer, with Wilson's interval.
        exact_match: Fraction of items where greedy decoding produces a complete acceptable answer, with Wilson's interval.
        logprob_per_answer: Mean log-probability of the whole (best acceptable) answer, in nats, with its bootstrap interval.
    """

    layer: int
    scale: float
    top1: Estimate
    exact_match: Estimate
    logprob_per_answer: Estimate


@checked
@dataclass(frozen=True, repr=False, eq=False)
class InjectionSweep(Artefact):
    """Effect of a vector on zero-shot prompts at every layer and scale.

    Attributes:
        layers: Layers after which the vector was added; only the vector's own layer for the site "heads".
        scales: Factors applied to the vector.
        site: See `FunctionVector`.
        subset: Part of the split used as queries.
        top1, exact_match, logprob: See `AnswerScores`.
        plain_top1, plain_exact_match, plain_logprob: The same without the vector.
    """

    layers: tuple[int, ...]
    scales: tuple[float, ...]
    site: Site
    subset: Part
    top1: Bool[Tensor, "items layers scales"]
    exact_match: Bool[Tensor, "items layers scales"]
    logprob: Float[Tensor, "items layers scales"]
    plain_top1: Bool[Tensor, " items"]
    plain_exact_match: Bool[Tensor, " items"]
    plain_logprob: Float[Tensor, " items"]

    def __post_init__(self) -> None:
        """Check that every item, layer and scale has a value."""
        require_shape("sweep's log-probabilities", self.logprob, (len(self.plain_logprob), len(self.layers), len(self.scales)))

    @checked
    def mean(self, measure: Measure = "logprob") -> Float[Tensor, "layers scales"]:
        """Mean over items: an accuracy, or a log-probability in nats."""
        values: Tensor = getattr(self, measure)
        return values.double().mean(0)

    @checked
    def interval(
        self, measure: Measure = "logprob", *, level: Level = 0.95, resamples: Count = 2000
    ) -> Float[Tensor, "2 layers scales"]:
        """Interval per cell: Wilson's for an accuracy, percentile bootstrap over items for a log-probability."""
        values: Tensor = getattr(self, measure)
        n = len(values)
        if measure != "logprob":
            hits: list[int] = values.sum(0).flatten().tolist()
            return torch.tensor([proportion(k, n, level=level)[1:3] for k in hits]).T.reshape(2, *values.shape[1:])
        logprobs = values.numpy(force=True)
        return torch.from_numpy(bootstrap_means(logprobs, level=level, resamples=resamples, seed=self.provenance.seed))

    def cells(self) -> list[SweepCell]:
        """One cell per layer and scale, ordered by layer."""
        n, (low, high) = len(self.logprob), self.interval()
        logprobs = torch.stack([self.mean(), low.double(), high.double()], -1)
        return [
            SweepCell(
                layer,
                scale,
                proportion(int(self.top1[:, i, j].sum()), n),
                proportion(int(self.exact_match[:, i, j].sum()), n),
                Estimate(*logprobs[i, j].tolist(), n=n),
            )
            for i, layer in enumerate(self.layers)
            for j, scale in enumerate(self.scales)
        ]

    @checked
    def best(self, measure: Measure = "logprob") -> SweepCell:
        """The cell with the largest mean; ties in accuracy are broken by log-probability."""
        field = "logprob_per_answer" if measure == "logprob" else measure
        return max(self.cells(), key=lambda cell: (getattr(cell, field).mean, cell.logprob_per_answer.mean))

    @checked
    def best_vector(self, vector: V, measure: Measure = "logprob") -> V:
        """The swept vector at the layer and scale of `best`."""
        best = self.best(measure)
        return vector.at(layer=best.layer, scale=best.scale)

    def heatmap_data(self) -> Tensor:
        """Mean gain in log-probability over the plain model, (layers, scales)."""
        return (self.mean() - self.plain_logprob.double().mean()).float()

    def to_dataframe(self) -> DataFrame:
        """One row per layer and scale; see `SweepCell`."""
        return data_frame(self.cells())

    def summary(self) -> dict[str, str]:
        """See `Artefact.summary`."""
        best, at_heads = self.best(), self.site == "heads"
        top1, logprob = float(self.plain_top1.double().mean()), float(self.plain_logprob.mean())
        place = "its heads" if at_heads else f"after {len(self.layers)} layers"
        cell = f"scale {best.scale:g}" if at_heads else f"layer {best.layer}, scale {best.scale:g}"
        return super().summary() | {
            "injected at": f"{place}, last prompt token, scales {', '.join(f'{scale:g}' for scale in self.scales)}",
            "items": f"{len(self.top1)} of the {self.subset} split, zero-shot",
            "without it": f"top-1 {top1:.2f}, log-prob {logprob:.2f}",
            "best": f"{cell}: top-1 {best.top1}, log-prob {best.logprob_per_answer}",
        }


@checked
def sweep_injection(
    model: LensModel,
    task: Task,
    vector: FunctionVector,
    *,
    layers: Whole | Sequence[Whole] | None = None,
    scales: Finite | Sequence[Finite] = SCALES,
    split: Split | None = None,
    subset: Part = "validation",
    max_items: Count | None = 40,
    template: PromptTemplate = TODD,
    force: bool = False,
    progress: bool = False,
) -> InjectionSweep:
    """Inject a vector at every layer and scale, all as branches of the same prompts.

    Args:
        model: Model to run.
        task: Task to query.
        vector: Vector to inject. With the site "heads" its layers are fixed, and only the scale is swept.
        layers: One layer of the residual stream or several; default: all.
        scales: One factor or several, applied to the vector in place of its own scale.
        split: Split of the task's pairs; default: the vector's (`split_pairs(task, seed=vector.provenance.seed)`).
        subset: Part of the split used as queries. Do not report test results for a choice made by a sweep of the test part.
        max_items: Maximum number of pairs; more cost time and rarely change a choice.
        template: Template of the zero-shot prompts.
        force: Run the sweep even if the provenance does not match.
        progress: Show a progress bar.

    Raises:
        LensFVError: layers, scales or items are empty, a layer does not exist, layers are given for a vector with the site
            "heads", or the vector belongs to another model.

    Example:
        >>> vector = lens_fv.tune(model, task, n_pairs=4, steps=2, layers=1)
        >>> sweep = lens_fv.sweep_injection(model, task, vector, layers=[0, 1], scales=[1.0], max_items=4)
        >>> len(sweep.cells())
        2
    """
    if not force:
        vector.provenance.check(model)
    if vector.site == "heads" and layers is not None:
        raise LensFVError(
            f"sweep a vector injected at its heads over layers {as_list(layers)}: they stay in their own layers; leave layers "
            "out, or sweep vector.at(site='resid_post')"
        )
    swept = layers_of(model, layers, [vector.layer] if vector.site == "heads" else range(model.n_layers))
    factors = [float(scale) for scale in as_list(scales)]
    if not factors:
        raise LensFVError("sweep a vector over 0 scales: give at least one")
    split = split or split_pairs(task, seed=vector.provenance.seed)
    items = (split.validation if subset == "validation" else split.test)[:max_items]
    if not items:
        raise LensFVError(f"sweep {task.name}: no items of its {subset} split; it needs more pairs, or raise max_items")
    prompts = encode_prompts(model, [zero_shot(pair, template=template) for pair in items])
    branches = [[], *(vector.at(layer=layer, scale=scale).edits() for layer in swept for scale in factors)]
    scores = score_answers(model, prompts, branches, what=f"{task.name}: sweep", progress=progress)
    measures = {name: getattr(scores, name) for name in ("top1", "exact_match", "logprob")}
    return InjectionSweep(
        provenance=Provenance.of(
            model,
            task=task.name,
            task_hash=task.fingerprint,
            prompts=[p.tokens for p in prompts],
            seed=vector.provenance.seed,
            method="injection sweep",
            options={"vector": vector.provenance.method, "vector_task": vector.provenance.task, "subset": subset},
        ),
        layers=tuple(swept),
        scales=tuple(factors),
        site=vector.site,
        subset=subset,
        **{name: values[:, 1:].reshape(len(items), len(swept), len(factors)) for name, values in measures.items()},
        **{f"plain_{name}": values[:, 0] for name, values in measures.items()},
    )
