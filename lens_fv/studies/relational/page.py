"""What the page of the study of relations shows."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from plotly.graph_objects import Figure

from lens_fv.plotting import plot_transfer
from lens_fv.studies.relational.claims import CLAIMS
from lens_fv.studies.relational.settings import subset
from lens_fv.studies.relational.view import View, best_vectors, classified, joined
from lens_fv.studies.study import Results
from lens_fv.studies.tables import select, verdict
from lens_fv.tasks import load_task


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
        "heatmap": heatmap,
    }


def headline(run: Results) -> dict[str, Any]:
    """First-token accuracy of each condition, and the advantage of tuned over extracted vectors."""
    accuracy = View(run.rows).where(part="completion", measure="top1_accuracy").estimates("condition", "measure")
    return {
        "completion": {condition: row["top1_accuracy"] for condition, row in accuracy.items()},
        "tuned_minus_extracted": CLAIMS["Do tuned vectors complete relations better?"][0].estimate(run.rows),
    }


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
