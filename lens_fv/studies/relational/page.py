"""What the page of the study of relations claims and shows. A claim is a difference that should be above 0."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from plotly.graph_objects import Figure

from lens_fv.core.statistics import Estimate
from lens_fv.plotting import plot_transfer
from lens_fv.studies.relational.settings import subset
from lens_fv.studies.relational.vectors import RANKS
from lens_fv.studies.relational.view import View, best_vectors, classified, joined
from lens_fv.studies.study import Results
from lens_fv.studies.tables import Contrast, select, verdict
from lens_fv.tasks import load_task

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class SeedwiseContrast(Contrast):
    """A difference that was tested within each seed: the mean over seeds, with an interval that spans those of all seeds."""

    def estimate(self, rows: "pd.DataFrame") -> Estimate | None:
        """The mean difference; n is the number of relations."""
        selected: Any = select(rows, {"part": self.part, "condition": f"{self.of} - {self.minus}", **self.where})
        means, lows, highs = (selected[selected["measure"] == f"{self.measure}{end}"] for end in ("", "_ci_low", "_ci_high"))
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


def context(runs: Sequence[Results]) -> dict[str, Any]:
    """The rows of all runs, the claims, and what else the template calls."""
    import pandas as pd

    rows = View(pd.concat([part for run in runs for part in (classified(run), best_vectors(run))], ignore_index=True))
    claims = {name: [(claim, rows.contrast(claim, "model")) for claim in group] for name, group in CLAIMS.items()}
    return {
        "rows": rows,
        "parts": rows.unique("part"),
        "subset": subset(runs[0].settings["relations"], runs[0].settings["subset"]),
        "claims": claims,
        "verdicts": {
            question: Counter(verdict(value) for _, cells in contrasts for value in cells.values())
            for question, contrasts in claims.items()
        },
        "joined": joined,
        "pairs": pairs,
        "decoding_table": decoding_table,
        "heatmap": heatmap,
    }


def headline(run: Results) -> dict[str, Any]:
    """First-token accuracy of each condition, and the advantage of tuned over extracted vectors."""
    accuracy = View(run.rows).where(part="completion", measure="top1_accuracy").estimates("condition", "measure")
    return {
        "completion": {condition: row["top1_accuracy"] for condition, row in accuracy.items()},
        "tuned_minus_extracted": CLAIMS["Do tuned vectors complete relations better?"][0].estimate(run.rows),
    }


def decoding_table(view: View) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Means of extracted and tuned vectors, their difference and its largest p, by logits, ranked words and measure."""
    table: dict[tuple[str, str, str], dict[str, Any]] = {}
    for (logits, ranked), rows in view.rows.groupby(["job", "unit"], sort=False):
        values = rows.groupby(["condition", "measure"])["value"]
        means, largest = values.mean(), values.max()
        for measure in RANKS:
            if difference := decoding(measure, logits, ranked).estimate(rows):
                cells = {condition: means[condition, measure] for condition in ("extracted", "tuned")}
                p = largest["tuned - extracted", f"{measure}_p_value"]
                table[logits, ranked, measure] = {**cells, "difference": difference, "p": p}
    return table


def pairs(of: str | Iterable[str], minus: str | Iterable[str]) -> list[str]:
    """Names of pairs of conditions, "one - other", without those of a condition and itself."""
    ofs, minuses = ([names] if isinstance(names, str) else list(names) for names in (of, minus))
    return [f"{first} - {second}" for first in ofs for second in minuses if first != second]


def heatmap(run: Results) -> Figure:
    """The effect of each relation's vector on each relation, by group and family."""
    names = list(run.settings["relations"])
    tasks = sorted(map(load_task, names), key=lambda task: (task.group, task.family, task.name))
    effects = select(run.part("transfer"), {"measure": "logprob_gain_nats"}).pivot(index="item", columns="unit", values="value")
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
