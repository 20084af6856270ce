"""The study of guided fine-tuning: which methods keep abilities while a model learns?"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from lens_fv.core.statistics import Estimate
from lens_fv.studies.guided.parts import METRICS, ablations, best_candidates, choosing, costs, methods
from lens_fv.studies.guided.settings import CHOOSING, CONTROLS, GuidedSettings, condition, method_of
from lens_fv.studies.instruction.parts import start
from lens_fv.studies.instruction.settings import InstructedStudy
from lens_fv.studies.study import Results
from lens_fv.studies.tables import Contrast, Estimates, View, pairs, verdict

PLAIN, KL = "lora", "kl"
SHOWN = (*METRICS, "lost")
GUIDES = ("iv", "fv", "swap", "swap-heads", "swap-kl")
CLAIMS = [
    Contrast(of, name, "general", "methods", f'"{of}" keeps more than with {by}', paired=())
    for name, (of, by) in CONTROLS.items()
]
"""What a guide's own vectors and heads are worth."""
CHANGES = ("knowledge_logprob_per_token_nats", "residual_cosine")
"""Tracked measures that are shown as changes."""


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

    @staticmethod
    def derived(run: Results) -> Any:
        """See `Study.derived`: "lost" is the initial accuracy on held-out tasks minus that at the end.

        Metrics come in the order of the settings, and without those of the initial model.
        """
        import pandas as pd

        general = run.rows.where(measure="general").frame
        initial = general.loc[general["condition"] == "initial"].set_index("unit")["value"]
        lost = general.assign(measure="lost", value=general["unit"].map(initial).astype(float) - general["value"])
        rows: Any = pd.concat([run.rows.frame, lost])
        is_metric = rows["measure"].isin(SHOWN)
        metrics = rows.loc[is_metric & (rows["condition"] != "initial")]
        candidates = [condition(method, changes) for method, tried in run.settings["methods"].items() for changes in tried]
        names = dict.fromkeys([*candidates, *run.settings["methods"], *CONTROLS])
        order = {name: i for i, name in enumerate(names)}
        metrics = metrics.sort_values("condition", key=lambda c: c.map(order).fillna(len(order)), kind="stable")
        return pd.concat([rows.loc[~is_metric], metrics])

    @staticmethod
    def context(rows: View, runs: Sequence[Results]) -> Mapping[str, Any]:
        """See `Study.context`: everything by run."""
        return {"results": {run.name: _results(rows.where(model=run.name), run.settings) for run in runs}}

    @staticmethod
    def headline(rows: View, _: Results) -> Mapping[str, Any]:
        """Estimates of the metrics by method."""
        return {"methods": rows.where(part="methods", measure=SHOWN).estimates()}


STUDY = GuidedStudy


def _results(rows: View, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    methods = rows.where(part="methods", measure=SHOWN)
    table = methods.estimates()
    guides = [guide for guide in GUIDES if {guide, PLAIN, KL} <= table.keys()]
    aims = {guide: {name: claim.estimate(rows) for name, claim in aim(guide).items()} for guide in guides}
    best = best_candidates(rows, settings["methods"]).values()
    candidates = rows.where(part="choosing", measure=METRICS).estimates()
    return {
        "metrics": table,
        "to_plain": _from(methods, PLAIN, list(table)),
        "to_kl": _from(methods, KL, guides),
        "aims": {guide: {**row, "points_lost": table[guide]["lost"]} for guide, row in aims.items()},
        "met": [guide for guide, row in aims.items() if all(value and verdict(value) == "holds" for value in row.values())],
        "controls": {
            claim.claim: {"difference": value, "verdict": value} for claim in CLAIMS if (value := claim.estimate(rows))
        },
        "trajectories": _trajectories(rows),
        "ablations": _ablations(rows, settings),
        "candidates": {name: {**row, "chosen": "yes" if name in best else ""} for name, row in candidates.items()},
    }


def _from(rows: View, other: str, names: Sequence[str]) -> Estimates:
    """Differences of methods from another one, by method and metric."""
    differences = rows.differences(pairs(names, other), "measure", paired=())
    return {pair.removesuffix(f" - {other}"): row for pair, row in differences.items()}


def _trajectories(rows: View) -> dict[str, dict[str, float]]:
    """Means over tasks of the tracked measures at the end of the run, by method; those of `CHANGES` since its start."""
    tracked = rows.frame.loc[(rows.frame["part"] == "methods") & rows.frame["measure"].str.startswith("checkpoint_")]
    table: dict[str, dict[str, float]] = {}
    for (method, name), tasks in tracked.groupby(["condition", "measure"], sort=False):
        measure, means = name.removeprefix("checkpoint_"), tasks.groupby("item")["value"].mean().tolist()
        start = means[0] if measure in CHANGES else 0.0
        table.setdefault("(initially)", {})[measure] = means[0] - start
        table.setdefault(method, {})[measure] = means[-1] - start
    return table


def _ablations(rows: View, settings: Mapping[str, Any]) -> dict[str, Mapping[str, Estimate]]:
    """Metrics of each ablation and its difference from its method, which comes before its ablations."""
    ablated = rows.where(part="ablations", measure=SHOWN).estimates()
    sequence = next(name for name in settings["sequences"] if name != CHOOSING)
    usual = rows.where(part="methods", measure=SHOWN, unit=f"{settings['seeds'][0]}/{sequence}").estimates()
    table: dict[str, Mapping[str, Estimate]] = {}
    for method in settings["methods"]:
        if names := [name for name in ablated if method_of(name) == method]:
            table[method] = usual.get(method, {})
            table |= {name: {**ablated[name], **change(rows, name, method)} for name in names}
    return table


def change(rows: View, ablation: str, method: str) -> dict[str, Estimate]:
    """What an ablation adds to its method's accuracies "average" and "general"; intervals are over the items of this run."""
    first = rows.where(part="ablations", condition=ablation).frame.iloc[0]
    jobs = [f"{first['job'].partition('/')[0]}/{name}" for name in (ablation, method)]
    scores = rows.where(part=("ablations", "methods"), seed=first["seed"], job=jobs).frame
    learned = scores.loc[scores["measure"] == "exact_match_after_" + scores["unit"]]
    others = scores.loc[(scores["measure"] == "exact_match") & ~scores["unit"].isin(learned["unit"])]
    changes: dict[str, Estimate] = {}
    for name, items in (("average_change", learned), ("general_change", others)):
        units = View(items.assign(unit=items["unit"] + "/" + items["item"].astype(str)))
        if difference := units.difference(ablation, method, paired=()):
            changes[name] = difference
    return changes
