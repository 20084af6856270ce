"""What the page shows of one model's rows: estimates, effects of updates, and claims."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lens_fv.core.statistics import Estimate, estimate
from lens_fv.knowledge.results import share_of_gap
from lens_fv.knowledge.scores import perplexity_of
from lens_fv.plotting import plot_interval_dots, plot_interval_lines
from lens_fv.studies.knowledge.settings import ENTITIES, EXTERNAL, SIZES
from lens_fv.studies.knowledge.updates import ACCURACY, KL, LOCALITY, LOGPROB
from lens_fv.studies.study import Results
from lens_fv.studies.tables import Contrast, Curve, Table, mean, select, unit_means

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


class Effect(NamedTuple):
    """What an update teaches, and what else it changes.

    Attributes:
        gap, gap_loss: Shares of the gaps in accuracy and in loss that it closes.
        accuracy, perplexity: Differences from the base on unrelated probes, in percentage points and in percent.
        kl: KL divergence from the base on unrelated sentences, in nats per token.
    """

    gap: Estimate | None
    gap_loss: Estimate | None
    accuracy: Estimate | None
    perplexity: Estimate | None
    kl: Estimate | None


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
        several = f"{self.run.settings['entities_per_update']} per update"
        return {part: f"{name}, {several}" for part, name in self.entities.items()} | {
            SIZES: f"{self.entities[ENTITIES]}, 1 per update"
        }

    def select(self, **where: Any) -> "pd.DataFrame":
        """The rows whose columns have these values."""
        return select(self.rows, where)

    def curve(self, x: str, line: str, **where: Any) -> dict[str, dict[float, Estimate]]:
        """Estimates along a column, by the lines' names in words."""
        lines = Curve(x, line, where).estimates(self.rows)
        return {NAMES.get(name, name): values for name, values in lines.items()}

    def knowledge(self, part: str) -> dict[str, dict[str, Estimate | None]]:
        """What is known in each condition: accuracy (also by kind of probe), perplexity, and the shares of the gaps closed."""
        measures = Table(where={"part": part, "measure": [ACCURACY, LOGPROB]}).estimates(self.rows)
        kinds = Table(columns="kind", where={"part": part, "measure": ACCURACY}).estimates(self.rows)
        knowledge: dict[str, dict[str, Estimate | None]] = {}
        for name in [name for name in NAMES if name in measures]:
            rows = self.select(part=part, condition=name)
            updated = name in METHODS or name.endswith("vector")
            knowledge[name] = {
                "accuracy": measures[name].get(ACCURACY),
                "explicit": kinds.get(name, {}).get("explicit"),
                "inferential": kinds.get(name, {}).get("inferential"),
                "perplexity": perplexity(measures[name].get(LOGPROB)),
                "gap": self._gap(rows, ACCURACY, part) if updated else None,
                "gap_loss": self._gap(rows, LOGPROB, part) if updated else None,
            }
        return knowledge

    def n_seeds(self, part: str, condition: str) -> int:
        """Number of seeds of a condition."""
        return len(set(self.select(part=part, condition=condition)["seed"]))

    def unrelated(self, measure: str) -> Estimate | None:
        """A measure of the base model on unrelated probes."""
        return mean(self.select(measure=LOCALITY + measure, condition="base"))

    @cached_property
    def updates(self) -> dict[str, dict[str, Effect]]:
        """Effects of the updates that are compared, by part and method."""
        updates: dict[str, dict[str, Effect]] = {}
        for part, where in MAIN.items():
            for method in METHODS:
                if len(rows := self.select(part=part, condition=method, **where)):
                    updates.setdefault(part, {})[method] = self._effect(rows, part)
        return updates

    @cached_property
    def claims(self) -> dict[str, dict[str, Estimate]]:
        """How many more probes distillation answers than each other method, by part."""
        claims: dict[str, dict[str, Estimate]] = {}
        for claim in CLAIMS:
            if difference := claim.estimate(self.rows):
                claims.setdefault(claim.part, {})[claim.minus] = difference
        return claims

    @cached_property
    def sizes(self) -> dict[tuple[int, str, str], Effect]:
        """Effects by number of entities per update, method and part of the entities, with the first seed."""
        settings, effects = self.run.settings, {}
        numbers = {int(n) for n in self.select(part=SIZES, condition=list(METHODS))["number"]}
        for n in sorted(numbers | {settings["entities_per_update"]} if numbers else ()):
            for method in settings["recipes"]:
                rows = self.select(part=[ENTITIES, SIZES], condition=method, number=str(n), seed=settings["seeds"][0])
                for part in self.entities:
                    if set(rows["unit"]) & set(self._known(part, "base", LOGPROB)):
                        effects[n, method, part] = self._effect(rows, part)
        return effects

    def by_size(self, field: str) -> dict[str, dict[float, Estimate]]:
        """A field of the effects on the study's own entities, by method and number of entities per update."""
        lines: dict[str, dict[float, Estimate]] = {}
        for (n, method, part), effect in self.sizes.items():
            if part == ENTITIES and (value := getattr(effect, field)):
                lines.setdefault(METHODS[method], {})[float(n)] = value
        return lines

    @property
    def gaps(self) -> dict[str, dict[str, dict[str, Estimate]]]:
        """Shares of the gaps that updates of several entities close, by entities, measure and method."""
        gaps: dict[str, dict[str, dict[str, Estimate]]] = {}
        for part, name in self.entities.items():
            for method, effect in self.updates.get(part, {}).items():
                for measure, gap in (("accuracy", effect.gap), ("loss", effect.gap_loss)):
                    if gap:
                        gaps.setdefault(name, {}).setdefault(measure, {})[METHODS[method]] = gap
        return gaps

    def tasks(self, measure: str) -> dict[str, list[float]]:
        """A measure of unrelated tasks at each measured epoch, by task."""
        rows = self.select(part="epochs", measure=measure)
        return {str(task): list(values) for task, values in rows.groupby("unit", sort=False)["value"]}

    @property
    def traces(self) -> dict[str, dict[str, Estimate]]:
        """Log-probabilities of the answers without noise ("clean") and with it ("noisy"), by condition."""
        return Table(columns="kind", where={"measure": "logprob_per_answer_nats"}).estimates(self.rows)

    def strongest_heads(self, condition: str, place: str) -> str:
        """The three heads with the largest mean effects, with these in nats."""
        effects = unit_means(self.select(condition=condition, measure="head_effect_nats", kind=place))
        strongest = sorted(effects, key=lambda head: -effects[head])[:3]
        return ", ".join(f"{head} ({effects[head]:+.2f})" for head in strongest)

    def _effect(self, rows: "pd.DataFrame", part: str) -> Effect:
        """What these rows say about the entities of a part, and about unrelated ones."""
        accuracy, logprob = (self._change(rows, measure) for measure in (ACCURACY, LOGPROB))
        if accuracy:
            mean, low, high, n = accuracy
            accuracy = Estimate(100 * mean, 100 * low, 100 * high, n)
        if logprob:
            mean, low, high = (100 * float(np.expm1(loss)) for loss in negated(logprob)[:3])
            logprob = Estimate(mean, low, high, logprob.n)
        return Effect(self._gap(rows, ACCURACY, part), self._gap(rows, LOGPROB, part), accuracy, logprob, kl_divergence(rows))

    def _gap(self, rows: "pd.DataFrame", measure: str, part: str) -> Estimate | None:
        """The share of the gap on the entities of a part that these rows are about."""
        base, definition = (self._known(part, condition, measure) for condition in ("base", "definition_in_context"))
        after = unit_means(select(rows, {"measure": measure}))
        units = [unit for unit in after if unit in base and unit in definition]
        values = [[of[unit] for unit in units] for of in (base, after, definition)]
        return share_of_gap(values[0], values[1], values[2])

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


def perplexity(logprob: Estimate | None) -> Estimate | None:
    """Perplexity of a mean log-probability per token."""
    return logprob and perplexity_of(negated(logprob))


def negated(logprob: Estimate) -> Estimate:
    """The loss of a mean log-probability."""
    mean, low, high, n = logprob
    return Estimate(-mean, -high, -low, n)


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
        f"gap closed, {view.titles[part]}: {METHODS[method]}": effect.gap
        for part, effects in view.updates.items()
        for method, effect in effects.items()
    }
