"""The study of guided fine-tuning: which methods keep abilities while a model learns?"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from lens_fv.core.statistics import Estimate
from lens_fv.plotting import plot_interval_dots, plot_interval_lines
from lens_fv.studies.guided.parts import METRICS, ablations, best_candidates, choosing, costs, methods
from lens_fv.studies.guided.settings import CHOOSING, CONTROLS, GuidedSettings, condition, method_of
from lens_fv.studies.instruction.parts import start
from lens_fv.studies.instruction.settings import InstructedStudy
from lens_fv.studies.study import Results
from lens_fv.studies.tables import Contrast, Curve, Table, select, verdict

PLAIN, KL = "lora", "kl"
GUIDES = ("iv", "fv", "swap", "swap-heads", "swap-kl")
CLAIMS = [
    Contrast(of, name, "general", "methods", f'"{of}" keeps more than with {by}', paired=())
    for name, (of, by) in CONTROLS.items()
]
"""What a guide's own vectors and heads are worth."""
CHANGES = ("knowledge_logprob_per_token_nats", "residual_cosine")
"""Tracked measures that are shown as changes."""
TRACKED = {
    "accuracy": ("exact_match", "Accuracy after the instruction"),
    "vectors": ("vector_cosine", "Cosine of vectors to the initial ones"),
}
"""Measure and title of each figure of trajectories."""


def aim(guide: str) -> dict[str, Contrast]:
    """What a guide should achieve."""
    return {
        "lost": Contrast(
            PLAIN, guide, "lost", "methods", "loses at most half of what plain fine-tuning loses", paired=(), times=0.5
        ),
        "final": Contrast(
            guide, PLAIN, "final", "methods", "ends less than 2 points below plain fine-tuning", paired=(), margin=0.02
        ),
        "general": Contrast(guide, KL, "general", "methods", "keeps more than plain divergence", paired=()),
    }


class GuidedStudy(InstructedStudy[GuidedSettings]):
    """Guided fine-tuning compared with established methods for preserving abilities."""

    name = "guided"
    settings_type = GuidedSettings
    parts: ClassVar = {"start": start, "choosing": choosing, "methods": methods, "ablations": ablations, "costs": costs}
    hidden = ("methods", "ablations", "guides", "counterparts")

    @classmethod
    def context(cls, runs: Sequence[Results]) -> Mapping[str, Any]:
        """See `Study.context`: everything by run."""
        return {"results": {run.name: _results(run) for run in runs}, "tracked": TRACKED}

    @classmethod
    def headline(cls, run: Results) -> Mapping[str, Any]:
        """Estimates of the metrics by method."""
        table = Table().estimates(metrics(run, "methods"))
        return {"methods": {name: {metric: value._asdict() for metric, value in row.items()} for name, row in table.items()}}


STUDY = GuidedStudy


def metrics(run: Results, part: str) -> Any:
    """Rows of a part's metrics, and of "lost": the initial accuracy on held-out tasks minus that at the end."""
    import pandas as pd

    rows = select(run.rows, {"measure": METRICS})
    general: Any = rows.loc[rows["measure"] == "general"]
    initial = general.loc[general["condition"] == "initial"].set_index("unit")["value"]
    rows = pd.concat(
        [rows, general.assign(measure="lost", value=general["unit"].map(initial).astype(float) - general["value"])]
    )
    return rows.loc[(rows["part"] == part) & (rows["condition"] != "initial")]


def _results(run: Results) -> Mapping[str, Any]:
    rows, order = metrics(run, "methods"), (*run.settings["methods"], *CONTROLS)
    table = Table().estimates(rows)
    table = {name: table[name] for name in order if name in table}

    def differences(names: Iterable[str], minus: str) -> dict[str, dict[str, Estimate | None]]:
        present = [name for name in names if name != minus and {name, minus} <= table.keys()]
        return {
            name: {metric: Contrast(name, minus, metric, "methods", paired=()).estimate(rows) for metric in METRICS}
            for name in present
        }

    to_kl = differences(GUIDES, KL) if PLAIN in table else {}
    aims = {guide: {name: claim.estimate(rows) for name, claim in aim(guide).items()} for guide in to_kl}
    best = best_candidates(run.rows, run.settings["methods"]).values()
    scores = Table().estimates(metrics(run, "choosing"))
    candidates = [condition(method, changes) for method, tried in run.settings["methods"].items() for changes in tried]
    return {
        "metrics": table,
        "to_plain": differences(table, PLAIN),
        "to_kl": to_kl,
        "aims": {guide: {**row, "points_lost": table[guide]["lost"]} for guide, row in aims.items()},
        "met": [guide for guide, row in aims.items() if all(value and verdict(value) == "holds" for value in row.values())],
        "controls": {
            claim.claim: {"difference": value, "verdict": value} for claim in CLAIMS if (value := claim.estimate(rows))
        },
        "costs": Table(where={"part": "costs"}).estimates(run.rows),
        "trajectories": _trajectories(run),
        "ablations": _ablations(run, rows),
        "candidates": {n: {**scores[n], "chosen": "yes" if n in best else ""} for n in candidates if n in scores},
        "figures": _figures(run, table),
    }


def _trajectories(run: Results) -> dict[str, dict[str, float]]:
    """Means over tasks of the tracked measures at the end of the run, by method; those of `CHANGES` since its start."""
    rows = run.part("methods")
    tracked: Any = rows.loc[rows["measure"].str.startswith("checkpoint_")]
    table: dict[str, dict[str, float]] = {}
    for (method, name), tasks in tracked.groupby(["condition", "measure"], sort=False):
        measure, means = name.removeprefix("checkpoint_"), tasks.groupby("item")["value"].mean().tolist()
        start = means[0] if measure in CHANGES else 0.0
        table.setdefault("(initially)", {})[measure] = means[0] - start
        table.setdefault(method, {})[measure] = means[-1] - start
    return table


def _ablations(run: Results, rows: Any) -> dict[str, Mapping[str, Estimate | None]]:
    """Metrics of each ablation and its difference from its method, which comes before its ablations."""
    ablated = Table().estimates(metrics(run, "ablations"))
    sequence = next(name for name in run.settings["sequences"] if name != CHOOSING)
    usual = Table(where={"unit": f"{run.settings['seeds'][0]}/{sequence}"}).estimates(rows)
    table: dict[str, Mapping[str, Estimate | None]] = {}
    for method in run.settings["methods"]:
        if names := [name for name in ablated if method_of(name) == method]:
            table[method] = usual.get(method, {})
            table |= {name: {**ablated[name], **change(run, name, method)} for name in names}
    return table


def change(run: Results, ablation: str, method: str) -> dict[str, Estimate | None]:
    """What an ablation adds to its method's accuracies "average" and "general"; intervals are over the items of this run."""
    first = select(run.part("ablations"), {"condition": ablation}).iloc[0]
    jobs = [f"{first['job'].partition('/')[0]}/{name}" for name in (ablation, method)]
    rows: Any = select(run.rows, {"part": ("ablations", "methods"), "seed": first["seed"], "job": jobs})
    learned = rows.loc[rows["measure"] == "exact_match_after_" + rows["unit"]]
    others = rows.loc[(rows["measure"] == "exact_match") & ~rows["unit"].isin(learned["unit"])]
    contrast, changes = Contrast(ablation, method, "exact_match", "ablations", paired=()), dict[str, Estimate | None]()
    for name, items in (("average_change", learned), ("general_change", others)):
        units = items["unit"] + "/" + items["item"].astype(str)
        changes[name] = contrast.estimate(items.assign(unit=units, measure="exact_match", part="ablations"))
    return changes


def _figures(run: Results, table: Mapping[str, Mapping[str, Estimate]]) -> dict[str, Any]:
    """What every method keeps, and the trajectories of guides next to those of plain fine-tuning and plain divergence."""
    figures: dict[str, Any] = {}
    if table:
        kept = {"learned": "final", "held out": "general", "held out, in context": "in_context"}
        dots = {label: {name: row[metric] for name, row in table.items()} for label, metric in kept.items()}
        axis = "accuracy at the end"
        figures["methods"] = plot_interval_dots({run.name: dots}, title="What is kept", axis=axis, limits=(-0.02, 1.02))
    for name, (measure, title) in TRACKED.items():
        where = {"part": "methods", "measure": f"checkpoint_{measure}", "condition": (PLAIN, KL, *GUIDES)}
        if lines := Curve(where=where).estimates(run.rows):
            figures[name] = plot_interval_lines(lines, title=title, x_axis="tasks learned", y_axis=title.lower())
    return figures
