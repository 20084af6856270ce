"""Figures of injection sweeps over layers and scales."""

from collections.abc import Mapping
from itertools import cycle
from typing import Literal

import plotly.graph_objects as go

from lens_fv.core.choices import checked
from lens_fv.errors import LensFVError
from lens_fv.plotting.theme import GREY, PALETTE, counting_axis, figure, plain, tint
from lens_fv.vectors.sweep import InjectionSweep

CurveMeasure = Literal["top1", "logprob"]
_AXES = {"top1": "first-token accuracy", "logprob": "mean log-probability of the answer (nats)"}


@checked
def plot_layers(
    sweeps: Mapping[str, InjectionSweep],
    *,
    chosen: Mapping[str, int] | None = None,
    measure: CurveMeasure = "top1",
) -> go.Figure:
    """Plot a vector's effect by injection layer: one line per task with its 95 % interval.

    Args:
        sweeps: sweeps by task name, with one scale each.
        chosen: layer to mark, by task name.
        measure: "top1" (with Wilson interval) or "logprob" (with a bootstrap interval).

    Raises:
        LensFVError: nothing to draw, several scales, no layers, or a chosen layer that was not swept.
    """
    chosen = dict(chosen or {})
    _check(sweeps, chosen, measure)
    traces: list[go.Scatter] = []
    for (task, sweep), colour in zip(sweeps.items(), cycle(PALETTE)):
        layers = list(sweep.layers)
        middle, low, high = (x[:, 0].tolist() for x in (sweep.mean(measure), *sweep.interval(measure)))
        group = {"legendgroup": plain(task), "name": plain(task)}
        band = {"x": layers + layers[::-1], "y": high + low[::-1], "fill": "toself", "fillcolor": tint(colour, 0.16)}
        traces.append(go.Scatter(**band, **group, mode="lines", line={"width": 0}, hoverinfo="skip", showlegend=False))
        hover = [f"layer {i}: {m:.3f} [{a:.3f}, {b:.3f}]" for i, m, a, b in zip(layers, middle, low, high)]
        line = {"color": colour, "width": 2}
        tip = {"text": hover, "hovertemplate": "%{text}"}
        traces.append(go.Scatter(x=layers, y=middle, **tip, **group, mode="lines", line=line))
        if task in chosen:
            at = chosen[task]
            mark = {"color": colour, "size": 11, "symbol": "diamond", "line": {"width": 1.5, "color": "white"}}
            note = {"text": [f"layer {at}"], "textposition": "top center", "cliponaxis": False, "hoverinfo": "skip"}
            height = middle[layers.index(at)]
            traces.append(go.Scatter(x=[at], y=[height], **note, **group, mode="markers+text", marker=mark, showlegend=False))
    if chosen:
        mark = {"color": GREY, "size": 10, "symbol": "diamond"}
        traces.append(go.Scatter(x=[None], y=[None], mode="markers", marker=mark, name="chosen layer", hoverinfo="skip"))
    n_layers = max(sweep.provenance.shape[0] for sweep in sweeps.values())
    limits = {"range": [-0.02, 1.08], "tickvals": [0, 0.2, 0.4, 0.6, 0.8, 1]} if measure == "top1" else {}
    return figure(
        traces,
        title="Accuracy by layer of injection" if measure == "top1" else "Log-probability by layer of injection",
        height=420,
        xaxis=counting_axis("vector added after layer", n_layers) | {"range": [-0.5, n_layers - 0.5], "zeroline": False},
        yaxis={"title": {"text": _AXES[measure]}, **limits},
    )


@checked
def plot_injection(sweep: InjectionSweep, *, measure: CurveMeasure = "top1") -> go.Figure:
    """Plot a vector's gain over no vector: layers across, scales up, diverging colours around zero, best cell marked.

    Args:
        sweep: result of `sweep_injection`.
        measure: "top1" or "logprob"; the hover text gives both, with intervals.

    Raises:
        LensFVError: no such measure.
    """
    if measure not in _AXES:
        raise LensFVError(f"draw {measure!r} by layer and scale: choose one of {', '.join(_AXES)}")
    plain_mean = float((sweep.plain_top1 if measure == "top1" else sweep.plain_logprob).double().mean())
    won = sweep.mean(measure) - plain_mean
    layer_names = {layer: "its heads" if sweep.site == "heads" else str(layer) for layer in sweep.layers}
    scale_names = {scale: f"{scale:g}" for scale in sweep.scales}
    hover = [
        f"{'' if sweep.site == 'heads' else 'layer '}{layer_names[c.layer]}, scale {scale_names[c.scale]}: "
        f"accuracy {c.top1:.3f}<br>"
        f"log-probability {c.logprob_per_answer:.3f}"
        for c in sweep.cells()
    ]
    n_scales = len(scale_names)
    cells = go.Heatmap(
        z=won.T.tolist(),
        x=list(layer_names.values()),
        y=list(scale_names.values()),
        text=[hover[j::n_scales] for j in range(n_scales)],
        hovertemplate="%{text}<extra></extra>",
        coloraxis="coloraxis",
        xgap=1,
        ygap=1,
    )
    best = sweep.best(measure)
    mark = go.Scatter(
        x=[layer_names[best.layer]],
        y=[scale_names[best.scale]],
        mode="markers",
        marker={"color": "white", "size": 9, "symbol": "diamond", "line": {"width": 1.5, "color": GREY}},
        name="best",
        hoverinfo="skip",
        showlegend=False,
    )
    furthest = float(won.abs().max()) or 1.0
    unit = _AXES[measure].replace(" of the answer", "<br>of the answer").replace("first-token ", "first-token<br>")
    about = f"{sweep.provenance.task}, {sweep.provenance.model}, {len(sweep.top1)} {sweep.subset} items"
    category = {"type": "category", "showgrid": False}
    return figure(
        [cells, mark],
        title=f"{'Accuracy' if measure == 'top1' else 'Log-probability'} won by layer and scale: {about}",
        height=max(120, 38 * n_scales) + 130,
        coloraxis={"cmin": -furthest, "cmax": furthest, "colorbar": {"title": {"text": f"change in<br>{unit}", "side": "top"}}},
        # Categories, because a sweep may skip layers, and scales are rarely evenly spaced.
        xaxis=category | {"title": {"text": "vector added after layer"}, "tickangle": 0},
        yaxis=category | {"title": {"text": "scale"}},
    )


def _check(sweeps: Mapping[str, InjectionSweep], chosen: Mapping[str, int], measure: str) -> None:
    if measure not in _AXES:
        raise LensFVError(f"draw {measure!r} by layer: choose one of {', '.join(_AXES)}")
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
            raise LensFVError(f"mark layer {layer} of {task}: swept were {', '.join(sweeps)}, and there no such layer")
