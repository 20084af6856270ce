"""What the page of the study of relations claims and shows. A claim is a difference that should be above 0."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from plotly.graph_objects import Figure

from lens_fv.composition import fit_confidence, roc_auc
from lens_fv.core.statistics import Estimate
from lens_fv.errors import LensFVError
from lens_fv.plotting import plot_relations, plot_transfer
from lens_fv.studies.markdown import p_value
from lens_fv.studies.relational.settings import subset
from lens_fv.studies.relational.vectors import RANKS
from lens_fv.studies.study import Results
from lens_fv.studies.tables import LIMITS, Contrast, Estimates, View, verdict
from lens_fv.tasks import load_task


@dataclass(frozen=True)
class SeedwiseContrast(Contrast):
    """A difference that was tested within each seed: the mean over seeds, with an interval that spans those of all seeds."""

    def estimate(self, rows: View) -> Estimate | None:
        """The mean difference; n is the number of relations."""
        tested = rows.where(part=self.part, condition=f"{self.of} - {self.minus}", **self.where)
        means, lows, highs = (tested.where(measure=f"{self.measure}{end}").frame for end in ("", "_ci_low", "_ci_high"))
        if means.empty:
            return None
        ends = float(lows["value"].min()), float(highs["value"].max())
        return Estimate(float(means["value"].mean()), *ends, int(means["n"].iloc[0]))


def decoding(measure: str, logits: str, ranked: str, claim: str = "") -> SeedwiseContrast:
    """Tuned minus extracted vectors, by the ranks of words or answers."""
    return SeedwiseContrast("tuned", "extracted", measure, "decoding", claim, {"job": logits, "unit": ranked})


_completion = partial(Contrast, measure="top1_accuracy", part="completion")
_ranks = partial(decoding, "best_reciprocal_rank")
_typicality = partial(Contrast, measure="spearman", part="alignment")
_analogies = partial(Contrast, part="analogies", where={"kind": "relations"})
_POINTS, _NATS = "top1_accuracy", "logprob_per_token_nats"
CLAIMS: Mapping[str, Sequence[Contrast]] = {
    "Do tuned vectors complete relations better?": (
        _completion("tuned", "extracted", claim="tuned - extracted, first token (points)"),
        _completion("tuned", "k_shot", claim="tuned - few-shot prompt, first token (points)"),
    ),
    "Do tuned vectors decode better into words and answers?": (
        _ranks("direct", "answers", "tuned - extracted, 1 / rank of the best answer"),
        _ranks("later layers", "answers", "the same, read through the later layers"),
        _ranks("direct", "words", "tuned - extracted, 1 / rank of the best word for the relation"),
        _ranks("later layers", "words", "the same, read through the later layers"),
    ),
    "Do tuned vectors agree better with people on typicality?": (
        _typicality("tuned", "extracted", claim="tuned - extracted, by log-probability"),
        _typicality("tuned gain", "extracted gain", claim="the same, by the gain in log-probability"),
        _typicality("tuned direction", "extracted direction", claim="the same, by the direction of the pair"),
        _typicality("tuned", "shuffled", claim="tuned - tuned on wrong answers, by log-probability"),
    ),
    "Do composites solve analogies of new relations?": (
        _analogies("temperature", "one_shot", _POINTS, claim="composite - one-shot prompt, first token (points)"),
        _analogies("temperature", "one_shot", _NATS, claim="the same, nats per token"),
        _analogies("one_shot_temperature", "one_shot", _NATS, claim="prompt and composite - prompt, nats per token"),
        _analogies("temperature", "best", _NATS, claim="composite - the one best vector, nats per token"),
        _analogies("full", "temperature", _NATS, claim="full matrix - one temperature, nats per token"),
    ),
}
"""Contrasts by the question that they answer. The composite has a fitted temperature; its relations are new to the map."""


def context(rows: View, runs: Sequence[Results]) -> dict[str, Any]:
    """See `Study.context`: the claims, and the tables and figures that only this page has."""
    claims = {name: [(claim, rows.contrast(claim, "model")) for claim in group] for name, group in CLAIMS.items()}
    tools = (joined, analogy_differences, decoding_table, taxonomies, confidence, scatter, heatmap)
    return {
        "parts": rows.unique("part"),
        "subset": subset(runs[0].settings["relations"], runs[0].settings["subset"]),
        "claims": claims,
        "verdicts": {
            question: Counter(verdict(value) for _, cells in contrasts for value in cells.values())
            for question, contrasts in claims.items()
        },
        **{tool.__name__: tool for tool in tools},
    }


def headline(rows: View, _: Results) -> dict[str, Any]:
    """See `Study.headline`: accuracy of each condition, and the advantage of tuned over extracted vectors."""
    accuracy = rows.where(part="completion", measure="top1_accuracy").estimates()
    return {
        "completion": {condition: row["top1_accuracy"] for condition, row in accuracy.items()},
        "tuned_minus_extracted": CLAIMS["Do tuned vectors complete relations better?"][0].estimate(rows),
    }


def joined(tables: Mapping[str, Estimates]) -> Estimates:
    """Tables side by side, each with its name added to its columns."""
    down = dict.fromkeys(chain.from_iterable(tables.values()))
    return {
        row: {f"{column}: {name}": cell for name, table in tables.items() for column, cell in table.get(row, {}).items()}
        for row in down
    }


def analogy_differences(rows: View, compared: Iterable[str], **options: Any) -> Estimates:
    """Differences on analogies by model, in points of first-token accuracy and in log-probability."""
    names = {"top1_accuracy": "first token (points)", "logprob_per_token_nats": "log-probability"}
    return joined({name: rows.where(measure=m).differences(compared, "model", **options) for m, name in names.items()})


def decoding_table(rows: View) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Means of extracted and tuned vectors, their difference and its largest p, by logits, ranked words and measure."""
    table: dict[tuple[str, str, str], dict[str, Any]] = {}
    for (logits, ranked), own in rows.frame.groupby(["job", "unit"], sort=False):
        values = own.groupby(["condition", "measure"])["value"]
        means, largest = values.mean(), values.max()
        for measure in RANKS:
            if difference := decoding(measure, logits, ranked).estimate(View(own)):
                cells = {condition: means[condition, measure] for condition in ("extracted", "tuned")}
                p = largest["tuned - extracted", f"{measure}_p_value"]
                table[logits, ranked, measure] = {**cells, "difference": difference, "p": p}
    return table


def taxonomies(rows: View) -> dict[tuple[str, str], dict[str, Any]]:
    """AUC (mean over seeds) and p (the largest) of each model, by level of the classes and kind of similarity."""
    table: dict[tuple[str, str], dict[str, Any]] = {}
    for (level, kind, model), own in rows.frame.groupby(["unit", "condition", "model"], sort=False):
        values = own.groupby("measure")["value"]
        cells = {f"{model}: AUC": values.mean()["auc"], f"{model}: p": p_value(values.max()["auc_p_value"])}
        table.setdefault((level, kind), {}).update(cells)
    return table


def confidence(rows: View) -> dict[str, float] | str:
    """How well features of a composite predict whether it helps more than the one-shot prompt, or why this is unknown.

    The regression of `fit_confidence` is learned on the other folds. Keys: "helped" (fraction of analogies), "auc" (area
    under the ROC curve; 0.5 is chance), "p" (Mann-Whitney test), and "n" (number of analogies).
    """
    table = rows.frame.pivot_table("value", ["job", "unit", "item"], ["condition", "measure"], sort=False)
    folds = table.index.get_level_values("job")
    if len(set(folds)) < 2:
        return "a confidence takes two folds at least"
    features = table["composite"][["weight_entropy_nats", "source_gain_nats_per_token"]]
    gain = table["composite", "logprob_per_token_nats"] - table["one_shot", "logprob_per_token_nats"]
    x, helped = torch.tensor(features.to_numpy(np.float32)), torch.tensor((gain > 0).to_numpy())
    predicted = torch.zeros(len(helped))
    try:
        for fold in dict.fromkeys(folds):
            own = torch.tensor(folds == fold)
            predicted[own] = fit_confidence(x[~own], helped[~own])(x[own])
        auc, p = roc_auc(predicted, helped)
    except LensFVError as error:
        return str(error)
    return {"helped": float(helped.double().mean()), "auc": auc, "p": p, "n": len(helped)}


def scatter(rows: View) -> Figure:
    """Extracted and tuned vectors of each relation."""
    points: dict[str, dict[str, tuple[float, float]]] = {}
    for model in rows.unique("model"):
        extracted, tuned = (rows.where(model=model, condition=c).means() for c in ("extracted", "tuned"))
        points[model] = {name: (x, tuned[name]) for name, x in extracted.items() if name in tuned}
    groups = dict(zip(rows.frame["unit"], rows.frame["group"], strict=True))
    axes = {"x_axis": "extracted vector", "y_axis": "tuned vector"}
    return plot_relations(points, groups, title="Each relation's vectors", **axes, limits=LIMITS)


def heatmap(rows: View, run: Results) -> Figure:
    """The effect of each relation's vector on each relation, by group and family."""
    names = list(run.settings["relations"])
    tasks = sorted(map(load_task, names), key=lambda task: (task.group, task.family, task.name))
    gains = rows.where(part="transfer", model=run.name, measure="logprob_gain_nats")
    effects = gains.frame.pivot(index="item", columns="unit", values="value")
    order = [names.index(task.name) for task in tasks]
    values = effects.reindex(index=order, columns=[task.name for task in tasks]).to_numpy()
    return plot_transfer(
        values,
        [task.name for task in tasks],
        [task.group for task in tasks],
        title=f"What every vector does to every relation: {run.name}",
        unit="gain (nats)",
        limit=float(np.nanquantile(np.abs(values), 0.98)) or None,
    )
