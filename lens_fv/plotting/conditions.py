"""Bar charts that compare conditions with their controls."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Literal

import plotly.graph_objects as go

from lens_fv.core.choices import checked
from lens_fv.core.statistics import Estimate
from lens_fv.errors import LensFVError
from lens_fv.evaluation import Evaluation
from lens_fv.plotting.elements import CATEGORY, MEASURE_AXES, bars
from lens_fv.plotting.theme import GREY, PALETTE, figure, plain

BarMeasure = Literal["top1", "exact_match", "logprob_per_answer"]
_STYLE = {
    "none": ("no vector", GREY),
    "k_shot": ("k-shot prompt", "#009E73"),
    "extracted": ("extracted vector", "#56B4E9"),
    "tuned": ("tuned vector", "#0072B2"),
    "random": ("random vector", "#E69F00"),
    "other_relation": ("another relation's vector", "#CC79A7"),
}
_CONTROLS = ("random", "other_relation")


@checked
def plot_conditions(
    evaluations: Mapping[str, Evaluation],
    *,
    conditions: Sequence[str] | None = None,
    measure: BarMeasure = "top1",
) -> go.Figure:
    """Plot every condition's score with its 95 % interval, side by side for each task.

    Args:
        evaluations: Evaluations by task name.
        conditions: Conditions to draw, in this order; default: all, controls last.
        measure: "top1" or "exact_match" (Wilson intervals), or "logprob_per_answer" (bootstrap intervals).

    Raises:
        LensFVError: nothing to draw, or a condition that occurs in no evaluation.

    Example:
        >>> evaluation = lens_fv.evaluate(model, task, {'tuned': vector}, n_shots=2, max_items=4)
        >>> lens_fv.plotting.plot_conditions({task.name: evaluation}).layout.title.text
        'First-token accuracy with and without the vector: tiny, zero-shot prompts'
    """
    if not evaluations:
        raise LensFVError("draw conditions: no evaluations were given; evaluate at least one task")
    known = list(dict.fromkeys(c for evaluation in evaluations.values() for c in evaluation.conditions))
    conditions = list(conditions) if conditions is not None else _in_order(known)
    if not conditions:
        raise LensFVError(f"draw conditions: no condition was chosen; choose from {', '.join(known)}")
    for condition in conditions:
        if condition not in known:
            raise LensFVError(f"draw condition {condition!r}: no evaluation has it; choose from {', '.join(known)}")
    estimates: dict[str, dict[str, Estimate]] = {
        condition: {plain(task): getattr(e[condition], measure) for task, e in evaluations.items() if condition in e.conditions}
        for condition in conditions
    }
    span = max(abs(value) for row in estimates.values() for e in row.values() for value in e[:3])
    size = 11 if len(conditions) * len(evaluations) <= 16 else 9
    traces: list[go.Bar | go.Scatter] = []
    other_colours = cycle((PALETTE[1], PALETTE[6]))
    for condition, row in estimates.items():
        label, colour = _STYLE.get(condition) or (plain(condition), next(other_colours))
        shots = {evaluation.provenance.options.get("n_shots") for evaluation in evaluations.values()}
        if condition == "k_shot" and len(shots) == 1 and None not in shots:
            label = f"{shots.pop()}-shot prompt"
        group = {"legendgroup": label, "offsetgroup": label}
        traces.append(bars(list(row), list(row.values()), label, colour, **group))
        traces.append(_numbers(row, gap=0.02 * span, size=size, below=measure == "logprob_per_answer", name=label, **group))
    models = ", ".join(dict.fromkeys(e.provenance.model for e in evaluations.values()))
    prompts = " and ".join(dict.fromkeys(e.prompts.replace("_", "-") for e in evaluations.values()))
    limits = {"range": [0, 1.12], "tickvals": [0, 0.2, 0.4, 0.6, 0.8, 1]} if measure != "logprob_per_answer" else {}
    return figure(
        traces,
        title=f"{MEASURE_AXES[measure].capitalize()} with and without the vector: {models}, {prompts} prompts",
        height=440,
        barmode="group",
        bargap=0.18,
        bargroupgap=0.06,
        # Scatter points share the bars' offset groups, which places each number above its bar.
        scattermode="group",
        scattergap=0.18,
        xaxis=CATEGORY | {"categoryorder": "array", "categoryarray": [plain(task) for task in evaluations]},
        yaxis={"title": {"text": MEASURE_AXES[measure]}, "zeroline": True, **limits},
    )


def _numbers(row: Mapping[str, Estimate], *, gap: float, size: int, below: bool, **group: str) -> go.Scatter:
    """The means as text past the ends of the intervals, at a distance of `gap`."""
    return go.Scatter(
        x=list(row),
        y=[e.ci_low - gap if below else e.ci_high + gap / 2 for e in row.values()],
        text=[f"{e.mean:.1f}".replace("-", "−") if below else f"{e.mean:.2f}" for e in row.values()],
        mode="text",
        textfont={"size": size},
        textposition="bottom center" if below else "top center",
        showlegend=False,
        hoverinfo="skip",
        cliponaxis=False,
        **group,
    )


def _in_order(conditions: Sequence[str]) -> list[str]:
    """Sort conditions: prompts, then vectors, then other conditions, then controls."""
    controls = [c for c in _CONTROLS if c in conditions]
    known = [c for c in _STYLE if c in conditions and c not in controls]
    return [*known, *(c for c in conditions if c not in _STYLE), *controls]
