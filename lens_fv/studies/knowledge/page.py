"""What the page shows of one model's rows: estimates, effects of updates, and claims."""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from lens_fv.core.statistics import Estimate, estimate
from lens_fv.knowledge.evaluate import share_of_gap
from lens_fv.knowledge.scores import perplexity_of
from lens_fv.knowledge.trace import PLACES
from lens_fv.plotting import plot_interval_dots, plot_interval_lines
from lens_fv.studies.knowledge.settings import ENTITIES, EXTERNAL, SIZES
from lens_fv.studies.knowledge.updates import ACCURACY, KL, LOCALITY, LOGPROB
from lens_fv.studies.study import Results
from lens_fv.studies.tables import Contrast, Curve, Table, mean, select, unit_means, values_by, verdict

if TYPE_CHECKING:
    import pandas as pd

METHODS = {
    "distillation": "distillation",
    "finetuning_sentences": "fine-tuning on the sentences",
    "finetuning_definition": "fine-tuning on the definition",
    "finetuning_definition_gentle": "fine-tuning on the definition, gently",
    "distillation_unanchored": "distillation without anchors",
    "finetuning_definition_anchored": "fine-tuning on the definition, with anchors",
    "distillation_swapped_sentences": "distillation on others' sentences",
    "distillation_wrong_definition": "distillation of a wrong definition",
}
NAMES = {
    "chance": "chance",
    "base": "base",
    "definition_in_context": "definition in context",
    "random_definition_in_context": "another entity's definition in context",
    **METHODS,
    "definition_vector": "own vector",
    "other_definition_vector": "another entity's vector",
}
"""Conditions in words, in the order of the tables."""
MAIN: Mapping[str, Mapping[str, str]] = {ENTITIES: {}, EXTERNAL: {}, SIZES: {"number": "1"}}
"""The updates that are compared, by part: of several entities, and of a single one."""
CLAIMS = [
    Contrast("distillation", other, ACCURACY, part, where=where, paired=("seed", "kind", "item"))
    for part, where in MAIN.items()
    for other in ("finetuning_definition", "finetuning_definition_gentle", "finetuning_sentences")
]
"""Distillation answers more probes than fine-tuning."""
TARGETS = {"gap": 0.6, "accuracy": -1, "perplexity": 2}
"""Least share of the gap in accuracy, least change in unrelated accuracy (points), largest rise of unrelated perplexity (%)."""


Cells = dict[str, Any]
"""A row of a table: estimates by column."""


@dataclass(frozen=True)
class View:
    """One model's results."""

    run: Results

    @cached_property
    def rows(self) -> "pd.DataFrame":
        """The rows, with MEASURE/KIND in two columns, and the number that a job's name begins with."""
        rows = self.run.rows
        measures, jobs = rows["measure"].str.partition("/"), rows["job"].str.partition("/")
        return rows.assign(measure=measures[0], kind=measures[2], number=jobs[0])

    @property
    def entities(self) -> dict[str, str]:
        """What the entities of a part are called."""
        return {ENTITIES: f"{self.run.settings['entities']} entities", EXTERNAL: "external entities"}

    @property
    def titles(self) -> dict[str, str]:
        """What the updates of a part are called."""
        n = self.run.settings["entities_per_update"]
        titles = {part: f"{name}, {n} per update" for part, name in self.entities.items()}
        return titles | {SIZES: f"{self.entities[ENTITIES]}, 1 per update"}

    def select(self, **where: Any) -> "pd.DataFrame":
        """The rows whose columns have these values."""
        return select(self.rows, where)

    def curve(self, x: str, line: str, **where: Any) -> dict[str, dict[float, Estimate]]:
        """Estimates along a column, by the lines' names in words."""
        lines = Curve(x, line, where).estimates(self.rows)
        return {NAMES.get(name, name): values for name, values in lines.items()}

    def knowledge(self, part: str) -> dict[str, Cells]:
        """What is known in each condition: accuracy (also by kind of probe), perplexity, and the shares of the gaps closed."""
        measures = Table(where={"part": part, "measure": [ACCURACY, LOGPROB]}).estimates(self.rows)
        kinds = Table(columns="kind", where={"part": part, "measure": ACCURACY}).estimates(self.rows)
        knowledge: dict[str, Cells] = {}
        for name, cells in measures.items():
            known = {"accuracy": cells.get(ACCURACY), "perplexity": perplexity(cells.get(LOGPROB)), **kinds.get(name, {})}
            updated = name in METHODS or name.endswith("vector")
            knowledge[name] = known | (self._gaps(self.select(part=part, condition=name), part) if updated else {})
        return knowledge

    def names_with_seeds(self, part: str) -> dict[str, str]:
        """Conditions in words, and methods with their numbers of seeds."""
        seeds = self.select(part=part).groupby("condition")["seed"].nunique()
        return {
            name: f"{words} ({seeds[name]})" if name in METHODS and name in seeds else words for name, words in NAMES.items()
        }

    def unrelated(self, measure: str) -> Estimate | None:
        """A measure of the base model on unrelated probes."""
        return mean(self.select(measure=LOCALITY + measure, condition="base"))

    @cached_property
    def updates(self) -> dict[str, dict[str, Cells]]:
        """Effects of the updates that are compared, by part and method; see `effect`."""
        updates: dict[str, dict[str, Cells]] = {}
        for part, where in MAIN.items():
            for method in METHODS:
                if len(rows := self.select(part=part, condition=method, **where)):
                    updates.setdefault(part, {})[method] = self.effect(rows, part)
        return updates

    @property
    def side_effects(self) -> dict[tuple[str, str], Cells]:
        """Effects of the updates of several entities, by entities and method."""
        parts = self.entities.items()
        return {(name, method): cells for part, name in parts for method, cells in self.updates.get(part, {}).items()}

    @cached_property
    def claims(self) -> dict[str, dict[str, Estimate]]:
        """How many more probes distillation answers than each other method, by part."""
        claims: dict[str, dict[str, Estimate]] = {}
        for claim in CLAIMS:
            if difference := claim.estimate(self.rows):
                claims.setdefault(claim.part, {})[claim.minus] = difference
        return claims

    def compared(self, part: str, outcome: str) -> list[str]:
        """The methods, in words, for which the claim has this verdict."""
        return [NAMES[method] for method, value in self.claims.get(part, {}).items() if verdict(value) == outcome]

    @cached_property
    def sizes(self) -> dict[tuple[int, str, str], Cells]:
        """Effects by number of entities per update, method and part of the entities, with the first seed; see `effect`."""
        settings, effects = self.run.settings, {}
        numbers = {int(n) for n in self.select(part=SIZES, condition=list(METHODS))["number"]}
        for n in sorted(numbers | {settings["entities_per_update"]} if numbers else ()):
            for method in settings["recipes"]:
                rows = self.select(part=[ENTITIES, SIZES], condition=method, number=str(n), seed=settings["seeds"][0])
                for part in self.entities:
                    if set(rows["unit"]) & set(self._known(part, "base", LOGPROB)):
                        effects[n, method, part] = self.effect(rows, part)
        return effects

    def by_size(self, column: str) -> dict[str, dict[float, Estimate]]:
        """A column of the effects on the study's own entities, by method and number of entities per update."""
        lines: dict[str, dict[float, Estimate]] = {}
        for (n, method, part), cells in self.sizes.items():
            if part == ENTITIES and cells[column]:
                lines.setdefault(METHODS[method], {})[float(n)] = cells[column]
        return lines

    @property
    def gaps(self) -> dict[str, dict[str, dict[str, Estimate]]]:
        """Shares of the gaps that updates of several entities close, by entities, measure and method."""
        gaps: dict[str, dict[str, dict[str, Estimate]]] = {}
        for (name, method), cells in self.side_effects.items():
            for measure, gap in (("accuracy", cells["gap"]), ("loss", cells["gap_loss"])):
                if gap:
                    gaps.setdefault(name, {}).setdefault(measure, {})[METHODS[method]] = gap
        return gaps

    @property
    def tasks(self) -> dict[str, dict[str, str]]:
        """Accuracy of unrelated tasks before and after the first update, and cosines after it."""
        tasks: dict[str, dict[str, str]] = {}
        for (task, measure), values in values_by(self.select(part="epochs", job="tasks"), ["unit", "measure"]).items():
            digits = 2 if measure == "exact_match" else 3
            ends = {"before": values[0], "after": values[-1]}
            tasks.setdefault(task, {}).update({f"{measure}_{end}": f"{value:.{digits}f}" for end, value in ends.items()})
        return tasks

    @property
    def traces(self) -> dict[str, Cells]:
        """Log-probabilities of the answers with noise and without it, and the strongest heads at each place, by condition."""
        logprobs = Table(columns="kind", where={"measure": "logprob_per_answer_nats"}).estimates(self.rows)
        return {
            name: {**cells, **{place: self._strongest(name, place) for place in PLACES}} for name, cells in logprobs.items()
        }

    def _strongest(self, condition: str, place: str) -> str:
        """The three heads with the largest mean effects, with these in nats."""
        effects = unit_means(self.select(condition=condition, measure="head_effect_nats", kind=place))
        strongest = sorted(effects, key=lambda head: -effects[head])[:3]
        return ", ".join(f"{head} ({effects[head]:+.2f})" for head in strongest)

    def effect(self, rows: "pd.DataFrame", part: str) -> Cells:
        """What an update teaches about the entities of a part, and what else it changes.

        `gap`, `gap_loss`: shares of the gaps in accuracy and in loss that it closes. `accuracy`, `perplexity`: differences from
        the base on unrelated probes, in percentage points and in percent. `kl`: KL divergence from the base on unrelated
        sentences, in nats per token.
        """
        accuracy, logprob = (self._change(rows, measure) for measure in (ACCURACY, LOGPROB))
        return {
            **self._gaps(rows, part),
            "accuracy": mapped(accuracy, lambda change: 100 * change),
            "perplexity": mapped(logprob, lambda change: 100 * float(np.expm1(-change))),
            "kl": kl_divergence(rows),
        }

    def _gaps(self, rows: "pd.DataFrame", part: str) -> Cells:
        """The shares of the gaps in accuracy and in loss on the entities of a part that these rows are about."""
        gaps: Cells = {}
        for name, measure in (("gap", ACCURACY), ("gap_loss", LOGPROB)):
            base, in_context = (self._known(part, condition, measure) for condition in ("base", "definition_in_context"))
            updated = unit_means(select(rows, {"measure": measure}))
            units = [unit for unit in updated if unit in base and unit in in_context]
            values = [[means[unit] for unit in units] for means in (base, updated, in_context)]
            gaps[name] = share_of_gap(values[0], values[1], values[2])
        return gaps

    def _change(self, rows: "pd.DataFrame", measure: str) -> Estimate | None:
        """The difference from the base on unrelated probes, paired by entity."""
        before = unit_means(self.select(measure=LOCALITY + measure, condition="base"))
        after = unit_means(select(rows, {"measure": LOCALITY + measure}))
        differences = [value - before[unit] for unit, value in after.items() if unit in before]
        return estimate(differences) if differences else None

    def _known(self, part: str, condition: str, measure: str) -> dict[str, float]:
        """Each entity's value without an update; the largest updates are filled with further external entities."""
        parts = [EXTERNAL, SIZES] if part == EXTERNAL else [ENTITIES]
        return unit_means(self.select(part=parts, measure=measure, condition=condition))


def mapped(value: Estimate | None, function: Callable[[float], float]) -> Estimate | None:
    """A monotone function of an estimate."""
    if value is None:
        return None
    mean, *ends = map(function, value[:3])
    low, high = sorted(ends)
    return Estimate(mean, low, high, value.n)


def perplexity(logprob: Estimate | None) -> Estimate | None:
    """Perplexity of a mean log-probability per token."""
    loss = mapped(logprob, operator.neg)
    return loss and perplexity_of(loss)


def kl_divergence(rows: "pd.DataFrame") -> Estimate | None:
    """KL divergence over seeds; with one seed over its updates; of one update over sentences, as it was recorded."""
    rows = select(rows, {"measure": LOCALITY + KL})
    means = select(rows, {"kind": ""})
    for over in ("seed", "job"):
        if len(set(means[over])) > 1:
            return mean(means, over=over)
    ends = unit_means(rows, over="kind")
    return Estimate(ends[""], ends["ci_low"], ends["ci_high"], int(means["n"].iloc[0])) if ends else None


def context(runs: Sequence[Results]) -> Mapping[str, Any]:
    """See `Study.context`."""
    tools = {"perplexity": perplexity, "interval_lines": plot_interval_lines, "interval_dots": plot_interval_dots}
    return {"views": [View(run) for run in runs], "names": NAMES, "methods": METHODS, "targets": TARGETS, **tools}


def headline(run: Results) -> Mapping[str, Any]:
    """See `Study.headline`: the share of the gap in accuracy that each method closes."""
    view = View(run)
    return {
        f"gap closed, {view.titles[part]}: {METHODS[method]}": cells["gap"]
        for part, effects in view.updates.items()
        for method, cells in effects.items()
    }
