"""Figures of injection sweeps over layers and scales."""

from collections.abc import Mapping
from itertools import cycle
from typing import Literal

import plotly.graph_objects as go

from lens_fv.core.choices import checked
from lens_fv.errors import LensFVError
from lens_fv.plotting.elements import CATEGORY, MEASURE_AXES, counting_axis, curve, diverging_colours, heatmap
from lens_fv.plotting.theme import GREY, PALETTE, figure, plain
from lens_fv.vectors.sweep import InjectionSweep

CurveMeasure = Literal["top1", "logprob"]
_FIELDS = {"top1": "top1", "logprob": "logprob_per_answer"}
_NAMES = {"top1": "accuracy", "logprob": "log-probability"}
_GAINS = {"top1": "first-token<br>accuracy", "logprob": "mean log-probability<br>of the answer (nats)"}


@checked
def plot_layers(
    sweeps: Mapping[str, InjectionSweep],
    *,
    chosen: Mapping[str, int] | None = None,
    measure: CurveMeasure = "top1",
) -> go.Figure:
    """Plot a vector's effect by injection layer: one line per task with its 95 % interval.

    Args:
        sweeps: Sweeps by task name, with one scale each.
        chosen: Layer to mark, by task name.
        measure: "top1" (with Wilson interval) or "logprob" (with a bootstrap interval).

    Raises:
        LensFVError: nothing to draw, several scales, no layers, or a chosen layer that was not swept.

    Example:
        >>> sweep = lens_fv.sweep_injection(model, task, vector, scales=1.0, max_items=4)
        >>> lens_fv.plotting.plot_layers({task.name: sweep}).layout.title.text
        'Accuracy by layer of injection'
    """
    chosen = dict(chosen or {})
    _check(sweeps, chosen)
    traces: list[go.Scatter] = []
    for (task, sweep), colour in zip(sweeps.items(), cycle(PALETTE)):
        estimates = {cell.layer: getattr(cell, _FIELDS[measure]) for cell in sweep.cells()}
        hover = [f"layer {layer}: {estimate:.3f}" for layer, estimate in estimates.items()]
        traces += curve(list(estimates), list(estimates.values()), colour, hover, name=plain(task))
        if task in chosen:
            layer = chosen[task]
            traces.append(
                go.Scatter(
                    x=[layer],
                    y=[estimates[layer].mean],
                    mode="markers+text",
                    marker={"color": colour, "size": 11, "symbol": "diamond", "line": {"width": 1.5, "color": "white"}},
                    text=[f"layer {layer}"],
                    textposition="top center",
                    cliponaxis=False,
                    hoverinfo="skip",
                    showlegend=False,
                    name=plain(task),
                    legendgroup=plain(task),
                )
            )
    if chosen:
        mark = {"color": GREY, "size": 10, "symbol": "diamond"}
        traces.append(go.Scatter(x=[None], y=[None], mode="markers", marker=mark, name="chosen layer", hoverinfo="skip"))
    n_layers = max(sweep.provenance.shape[0] for sweep in sweeps.values())
    limits = {"range": [-0.02, 1.08], "tickvals": [0, 0.2, 0.4, 0.6, 0.8, 1]} if measure == "top1" else {}
    return figure(
        traces,
        title=f"{_NAMES[measure].capitalize()} by layer of injection",
        height=420,
        xaxis=counting_axis("vector added after layer", n_layers) | {"range": [-0.5, n_layers - 0.5]},
        yaxis={"title": {"text": MEASURE_AXES[_FIELDS[measure]]}, **limits},
    )


def _check(sweeps: Mapping[str, InjectionSweep], chosen: Mapping[str, int]) -> None:
    if not sweeps:
        raise LensFVError("draw a sweep over layers: no sweeps were given; sweep at least one task")
    for task, sweep in sweeps.items():
        if len(sweep.scales) != 1 or sweep.site == "heads":
            raise LensFVError(
                f"draw {task} by layer: its sweep has {len(sweep.scales)} scales at {sweep.site}; give one of a single scale "
                "over layers, or draw it with plot_injection"
            )
    for task, layer in chosen.items():
        if task not in sweeps or layer not in sweeps[task].layers:
            raise LensFVError(f"mark layer {layer} of {task}: the sweeps are of {', '.join(sweeps)}, without this layer")


@checked
def plot_injection(sweep: InjectionSweep, *, measure: CurveMeasure = "top1") -> go.Figure:
    """Plot a vector's gain over no vector: layers across, scales up, diverging colours around zero, best cell marked.

    Args:
        sweep: Result of `sweep_injection`.
        measure: "top1" or "logprob"; the hover text gives both, with intervals.

    Raises:
        LensFVError: no such measure.

    Example:
        >>> sweep = lens_fv.sweep_injection(model, task, vector, scales=[0.5, 1.0], max_items=4)
        >>> lens_fv.plotting.plot_injection(sweep).layout.title.text
        'Gain in accuracy by layer and scale: toy, tiny, 4 validation items'
    """
    without_vector = float((sweep.plain_top1 if measure == "top1" else sweep.plain_logprob).double().mean())
    gain = (sweep.mean(measure) - without_vector).T.tolist()
    at_heads = sweep.site == "heads"
    layers = {layer: "its heads" if at_heads else str(layer) for layer in sweep.layers}
    scales = {scale: f"{scale:g}" for scale in sweep.scales}
    hover = [
        f"{'' if at_heads else 'layer '}{layers[cell.layer]}, scale {scales[cell.scale]}: accuracy {cell.top1:.3f}<br>"
        f"log-probability {cell.logprob_per_answer:.3f}"
        for cell in sweep.cells()
    ]
    hover_by_scale = [hover[j :: len(scales)] for j in range(len(scales))]
    best = sweep.best(measure)
    mark = go.Scatter(
        x=[layers[best.layer]],
        y=[scales[best.scale]],
        mode="markers",
        marker={"color": "white", "size": 9, "symbol": "diamond", "line": {"width": 1.5, "color": GREY}},
        name="best",
        hoverinfo="skip",
        showlegend=False,
    )
    about = f"{sweep.provenance.task}, {sweep.provenance.model}, {len(sweep.top1)} {sweep.subset} items"
    return figure(
        [heatmap(gain, hover_by_scale, x=list(layers.values()), y=list(scales.values()), xgap=1, ygap=1), mark],
        title=f"Gain in {_NAMES[measure]} by layer and scale: {about}",
        height=max(120, 38 * len(scales)) + 130,
        coloraxis=diverging_colours(gain, f"change in<br>{_GAINS[measure]}"),
        # Categories, because a sweep may skip layers, and scales are rarely evenly spaced.
        xaxis=CATEGORY | {"title": {"text": "vector added after layer"}, "tickangle": 0},
        yaxis=CATEGORY | {"title": {"text": "scale"}},
    )
