"""Bar charts that compare conditions with their controls."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Literal

import plotly.graph_objects as go

from lens_fv.core.choices import checked
from lens_fv.core.statistics import Estimate
from lens_fv.errors import LensFVError
from lens_fv.evaluation import Evaluation
from lens_fv.plotting.theme import GREY, PALETTE, error_bars, figure, plain

BarMeasure = Literal["top1", "exact_match", "logprob_per_answer"]
_AXES = {
    "top1": "first-token accuracy",
    "exact_match": "exact match",
    "logprob_per_answer": "mean log-probability of the answer (nats)",
}
_STYLE = {
    "none": ("no vector", GREY),
    "k_shot": ("k-shot", "#009E73"),
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
        evaluations: evaluations by task name.
        conditions: conditions to draw, in this order; default: all, controls last.
        measure: "top1" or "exact_match" (Wilson intervals), or "logprob_per_answer" (bootstrap intervals).

    Raises:
        LensFVError: nothing to draw, or a condition that occurs in no evaluation.
    """
    if measure not in _AXES:
        raise LensFVError(f"draw conditions by {measure!r}: choose one of {', '.join(_AXES)}")
    if not evaluations:
        raise LensFVError("draw conditions: no evaluations were given; evaluate at least one task")
    found = list(dict.fromkeys(c for evaluation in evaluations.values() for c in evaluation.conditions))
    chosen = list(conditions) if conditions is not None else _in_order(found)
    if not chosen:
        raise LensFVError(f"draw conditions: no condition was chosen; choose from {', '.join(found)}")
    for condition in chosen:
        if condition not in found:
            raise LensFVError(f"draw condition {condition!r}: no evaluation has it; choose from {', '.join(found)}")
    rows = {c: {task: e[c] for task, e in evaluations.items() if c in e.conditions} for c in chosen}
    # Numbers are placed past the end of the intervals, at a distance of 1/50 of the axis.
    shown: Mapping[str, Mapping[str, Estimate]] = {
        c: {task: getattr(result, measure) for task, result in row.items()} for c, row in rows.items()
    }
    span = max(abs(x) for row in shown.values() for e in row.values() for x in e[:3])
    size = 11 if len(chosen) * len(evaluations) <= 16 else 9
    traces, others = [], cycle((PALETTE[1], PALETTE[6]))
    for condition in chosen:
        label, colour = _STYLE.get(condition) or (condition, next(others))
        if condition == "k_shot":
            label = _k_shot(evaluations)
        traces += _bars(shown[condition], plain(label), colour, measure, gap=0.02 * span, size=size)
    names = [plain(task) for task in evaluations]
    limits = {"range": [0, 1.12], "tickvals": [0, 0.2, 0.4, 0.6, 0.8, 1]} if measure != "logprob_per_answer" else {}
    return figure(
        traces,
        title=f"{_AXES[measure].capitalize()} with and without the vector: {_about(evaluations)}",
        height=440,
        barmode="group",
        bargap=0.18,
        bargroupgap=0.06,
        # Scatter points share the bars' offset groups, which places each number above its bar.
        scattermode="group",
        scattergap=0.18,
        xaxis={"type": "category", "categoryorder": "array", "categoryarray": names, "showgrid": False},
        yaxis={"title": {"text": _AXES[measure]}, "zeroline": True, **limits},
    )


def _bars(
    rows: Mapping[str, Estimate], label: str, colour: str, measure: BarMeasure, *, gap: float, size: int
) -> list[go.Bar | go.Scatter]:
    """Draw a condition's bars, and its numbers past the ends of the intervals."""
    tasks = [plain(task) for task in rows]
    estimates = list(rows.values())
    bars = go.Bar(
        x=tasks,
        y=[e.mean for e in estimates],
        name=label,
        legendgroup=label,
        offsetgroup=label,
        # An outline makes a zero visible as a line.
        marker={"color": colour, "line": {"color": colour, "width": 1.5}},
        error_y=error_bars(estimates),
        text=[f"{e:.3f}, {e.n} items" for e in estimates],
        textposition="none",
        hovertemplate="%{x}: %{text}",
    )
    down = measure == "logprob_per_answer"
    numbers = go.Scatter(
        x=tasks,
        y=[e.ci_low - gap if down else e.ci_high + gap / 2 for e in estimates],
        text=[f"{e.mean:.1f}".replace("-", "−") if down else f"{e.mean:.2f}" for e in estimates],
        mode="text",
        textfont={"size": size},
        textposition="bottom center" if down else "top center",
        name=label,
        legendgroup=label,
        offsetgroup=label,
        showlegend=False,
        hoverinfo="skip",
        cliponaxis=False,
    )
    return [bars, numbers]


def _in_order(found: Sequence[str]) -> list[str]:
    """Sort conditions: prompts, then vectors, then controls."""
    last = [c for c in _CONTROLS if c in found]
    first = [c for c in _STYLE if c in found and c not in last]
    return [*first, *(c for c in found if c not in _STYLE), *last]


def _k_shot(evaluations: Mapping[str, Evaluation]) -> str:
    shots = {evaluation.provenance.options.get("n_shots") for evaluation in evaluations.values()}
    return f"{shots.pop()}-shot prompt" if len(shots) == 1 and None not in shots else "k-shot prompt"


def _about(evaluations: Mapping[str, Evaluation]) -> str:
    """Describe the models and the kind of prompt that vectors were added to."""
    models = dict.fromkeys(evaluation.provenance.model for evaluation in evaluations.values())
    prompts = dict.fromkeys(evaluation.prompts.replace("_", "-") for evaluation in evaluations.values())
    return f"{', '.join(models)}, {' and '.join(prompts)} prompts"
